"""AITM: each step of the funnel reads what the step before it has learned."""

from __future__ import annotations

import math
from typing import Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.gates import mix


class AITMConfig(TrunkConfig):
    """One dense stack per task, and attention that passes information down the funnel (Xi et al., KDD 2021)."""

    name: Literal["aitm"]
    bottom: DenseStack = Field(DenseStack(units=(128, 64)), description="The layers that each task has for itself.")

    def build(self, tasks: int, *, seed: int) -> AITM:
        return AITM(tasks, self.bottom, seed=seed)


class AITM(Trunk):
    """z_1 = q_1 and z_k = transfer_k(z_{k-1}, q_k), with q_k = bottom_k(x); z_k [batch, units[-1]] is task k's.

    What every task reads is the embedded input: no layer is shared by design, but a task's loss reaches the stacks
    and transfers of all steps before it. `last_shared_layer` is empty: the first stack, which all losses
    reach, is one task's own and lies apart from the others'.

    Reference: Xi, Chen, Yan, Zhang, Zhu, Zhuang, Chen. Modeling the Sequential Dependence among Audience Multi-step
    Conversions with Multi-task Learning in Targeted Display Advertising. KDD 2021.
    """

    def __init__(self, tasks: int, bottom: DenseStack, *, seed: int, **kwargs):
        super().__init__(name="aitm", **kwargs)
        self.bottoms = [bottom.build(f"bottom_{k}", seed=seed + 1000 * k) for k in range(tasks)]
        units, activation = bottom.units[-1], bottom.activation
        self.transfers = [
            Transfer(units, activation, seed=seed + 1000 * k + 500, name=f"transfer_{k}") for k in range(1, tasks)
        ]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        first, *later = (bottom(shared, training=training) for bottom in self.bottoms)
        outputs = [first]
        for transfer, own in zip(self.transfers, later):
            output, self.observed.gates[transfer.name] = transfer([outputs[-1], own])
            outputs.append(output)
        return outputs


class Transfer(keras.layers.Layer):
    """The attention of one step over what the step before passes on, p = g(z_{k-1}), and its own q.

        z = Σ_u w_u h₁(u),    w = softmax_u(⟨h₂(u), h₃(u)⟩ / √d),    u ∈ {p, q}

    h₁, h₂, h₃ are linear maps and g is one dense layer. Called on [z_{k-1}, q], [batch, d] each; gives z [batch, d]
    and w float32 [batch, 2].

    Args:
      units: d.
      activation: activation of g.
      seed: decides the initial weights.
    """

    def __init__(self, units: int, activation: str, *, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

        def dense(name: str, place: int, **options) -> keras.layers.Dense:
            initializer = keras.initializers.GlorotUniform(seed=seed + place)
            return keras.layers.Dense(units, kernel_initializer=initializer, name=name, **options)

        self.passed = dense("passed", 0, activation=activation)
        self.value, self.query, self.key = (dense(n, i, use_bias=False) for i, n in enumerate(("h1", "h2", "h3"), 1))

    def call(self, inputs: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        before, own = inputs
        both = tf.stack([self.passed(before), own], axis=1)
        # A softmax in bfloat16 would round weights near 1 to it.
        scores = tf.reduce_sum(tf.cast(self.query(both) * self.key(both), tf.float32), axis=-1)
        weights = tf.nn.softmax(scores / math.sqrt(self.units))
        return mix(weights, [self.value(both)]), weights
