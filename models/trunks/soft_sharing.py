"""Soft sharing: one stack of layers per task, held near each other by a penalty."""

from __future__ import annotations

import itertools
from typing import Literal

import tensorflow as tf
from pydantic import Field

from models.trunks.base import DenseStack, Trunk, TrunkConfig


class SoftSharingConfig(TrunkConfig):
    """One dense stack per task, and a penalty on the distance between them (Duong et al., ACL 2015)."""

    name: Literal["soft_sharing"]
    bottom: DenseStack = Field(DenseStack(units=(128, 64)), description="The layers that each task has for itself.")
    strength: float = Field(0.001, ge=0, description="Factor of the squared distances between the tasks' weights.")

    def build(self, tasks: int, *, seed: int) -> SoftSharing:
        return SoftSharing(tasks, self.bottom, strength=self.strength, seed=seed)


class SoftSharing(Trunk):
    """h_k = bottom_k(x) [batch, units[-1]], with strength · Σ_{j<k} ‖θ_j − θ_k‖²_F added to the loss.

    θ_k are all weights of the k-th stack, layer by layer. The stacks start from the same weights, so the distance
    starts at 0 and grows only as far as the tasks pull. What every task reads is the embedded input: no layer
    is shared, `last_shared_layer` is empty, and a task's loss reaches its own stack only.

    Reference: Duong, Cohn, Bird, Cook. Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a
    Neural Network Parser. ACL 2015.
    """

    def __init__(self, tasks: int, bottom: DenseStack, *, strength: float, seed: int, **kwargs):
        super().__init__(name="soft_sharing", **kwargs)
        self.strength = strength
        self.bottoms = [bottom.build(f"bottom_{k}", seed=seed) for k in range(tasks)]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        return [bottom(shared, training=training) for bottom in self.bottoms]

    def penalty(self) -> tf.Tensor | None:
        if not self.strength:
            return None
        distances = [
            tf.reduce_sum(tf.math.squared_difference(v, w))
            for a, b in itertools.combinations(self.bottoms, 2)
            for v, w in zip(a.trainable_variables, b.trainable_variables)
        ]
        return self.strength * tf.add_n(distances)
