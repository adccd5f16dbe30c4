"""Cross-stitch networks: one stack of layers per task, mixed after every layer."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
from pydantic import Field, PositiveFloat

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.stitch import Stitch, kernels, task_layers


class CrossStitchConfig(TrunkConfig):
    """One dense stack per task, whose layers' outputs are mixed by learned weights (Misra et al., CVPR 2016)."""

    name: Literal["cross_stitch"]
    bottom: DenseStack = Field(DenseStack(units=(128, 64)), description="The layers that each task has for itself.")
    keep: float = Field(
        0.9, ge=0, le=1, description="Initial weight of a task's own output; the rest of 1 is spread over the others."
    )
    learning_rate_scale: PositiveFloat = Field(
        10.0, description="Learning rate of the mixing weights, as a multiple of the dense layers'."
    )

    def build(self, tasks: int, *, seed: int) -> CrossStitch:
        return CrossStitch(tasks, self.bottom, keep=self.keep, learning_rate_scale=self.learning_rate_scale, seed=seed)


class CrossStitch(Trunk):
    """x̃_k = Σ_j A_kj x_j after every layer, with x_j = layer_j(x̃_j) [batch, units] of that layer.

    One matrix A [K, K] per layer, for all of its units. The last layer's x̃_k is the representation of task k. What
    every task reads is the embedded input; all layers below the last unit are reached by every task.

    Reference: Misra, Shrivastava, Gupta, Hebert. Cross-stitch Networks for Multi-task Learning. CVPR 2016.
    """

    def __init__(self, tasks: int, bottom: DenseStack, *, keep: float, learning_rate_scale: float, seed: int, **kwargs):
        super().__init__(name="cross_stitch", **kwargs)
        self.tasks = tasks
        self.learning_rate_scale = learning_rate_scale
        self.task_layers = task_layers(tasks, bottom, seed=seed)
        self.stitches = [Stitch(tasks, keep=keep, name=f"stitch_{i}") for i in range(len(bottom.units))]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        streams = [shared] * self.tasks
        for layers, stitch in zip(self.task_layers, self.stitches):
            streams = stitch([layer(x, training=training) for layer, x in zip(layers, streams)])
        return streams

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        return kernels(self.task_layers[-1])

    @property
    def faster(self) -> list[tuple[tf.Variable, float]]:
        return [(row, self.learning_rate_scale) for stitch in self.stitches for row in stitch.rows]
