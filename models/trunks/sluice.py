"""Sluice networks: what is mixed between the tasks are subspaces of their layers, and layers are mixed as well."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, field_validator

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.stitch import Stitch, kernels, task_layers

_SUBSPACES = 2


class SluiceConfig(TrunkConfig):
    """Mixtures of two subspaces of each task's layers, and of the layers (Ruder et al., AAAI 2019)."""

    name: Literal["sluice"]
    bottom: DenseStack = Field(
        DenseStack(units=(64, 64)), description="The layers that each task has for itself, all of one even width."
    )
    keep: float = Field(
        0.9, ge=0, le=1, description="Initial weight of a subspace on itself and of the last layer in the mixture."
    )
    strength: float = Field(0.001, ge=0, description="Factor of the penalty that keeps the subspaces orthogonal.")

    @field_validator("bottom")
    @classmethod
    def _one_even_width(cls, bottom: DenseStack) -> DenseStack:
        if len(set(bottom.units)) > 1 or bottom.units[0] % _SUBSPACES:
            raise ValueError(f"units: expected layers of one even width, got {list(bottom.units)}")
        return bottom

    def build(self, tasks: int, *, seed: int) -> Sluice:
        return Sluice(tasks, self.bottom, keep=self.keep, strength=self.strength, seed=seed)


class Sluice(Trunk):
    """h̃_l = α_l h_l after every layer l, over all tasks' subspaces, and the representation Σ_l β_kl h̃_kl of task k.

    A task's layer h_k [batch, units] is two subspaces side by side, and α_l [2K, 2K] mixes those of all tasks. α and
    β are plain numbers, neither positive nor summing to 1 once trained. The penalty strength · Σ ‖G₁ᵀ G₂‖²_F,
    over all tasks and layers, with the layer's kernel [G₁, G₂], keeps the two subspaces apart. What every task
    reads is the embedded input; all layers below the last unit are reached by every task.

    Reference: Ruder, Bingel, Augenstein, Søgaard. Latent Multi-task Architecture Learning. AAAI 2019.
    """

    def __init__(self, tasks: int, bottom: DenseStack, *, keep: float, strength: float, seed: int, **kwargs):
        super().__init__(name="sluice", **kwargs)
        self.tasks = tasks
        self.strength = strength
        depth = len(bottom.units)
        self.task_layers = task_layers(tasks, bottom, seed=seed)
        self.stitches = [Stitch(tasks, parts=_SUBSPACES, keep=keep, name=f"stitch_{i}") for i in range(depth)]
        self.mixtures = [LayerMixture(depth, keep=keep, name=f"mixture_{k}") for k in range(tasks)]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        streams = [shared] * self.tasks
        outputs = []
        for layers, stitch in zip(self.task_layers, self.stitches):
            streams = stitch([layer(x, training=training) for layer, x in zip(layers, streams)])
            outputs.append(streams)
        return [mixture([of_layer[k] for of_layer in outputs]) for k, mixture in enumerate(self.mixtures)]

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        return kernels(self.task_layers[-1])

    def penalty(self) -> tf.Tensor | None:
        if not self.strength:
            return None
        terms = []
        for kernel in (v for layers in self.task_layers for v in kernels(layers)):
            first, second = tf.split(tf.convert_to_tensor(kernel), _SUBSPACES, axis=1)
            terms.append(tf.reduce_sum(tf.square(tf.matmul(first, second, transpose_a=True))))
        return self.strength * tf.add_n(terms)


class LayerMixture(keras.layers.Layer):
    """Σ_l β_l h_l of one task: called on the outputs [batch, units] of its layers, gives [batch, units].

    Args:
      depth: number of layers.
      keep: initial weight of the last one; the rest of 1 is spread evenly over those before it.
    """

    def __init__(self, depth: int, *, keep: float, **kwargs):
        super().__init__(**kwargs)
        self.initial = [(1.0 - keep) / (depth - 1)] * (depth - 1) + [keep] if depth > 1 else [1.0]

    def build(self, input_shape) -> None:
        initializer = keras.initializers.Constant(self.initial)
        self.beta = self.add_weight("beta", [len(self.initial)], initializer=initializer)
        super().build(input_shape)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([b * h for b, h in zip(tf.unstack(self.beta), inputs)])
