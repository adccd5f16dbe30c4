"""Hard parameter sharing: one stack of layers under all tasks."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.trunks.base import DenseStack, Trunk, TrunkConfig


class SharedBottomConfig(TrunkConfig):
    """One dense stack that all tasks share (Caruana 1997)."""

    name: Literal["shared_bottom"]
    bottom: DenseStack = DenseStack(units=(128, 64))

    def build(self, tasks: int, *, seed: int) -> SharedBottom:
        return SharedBottom(tasks, self.bottom, seed=seed)


class SharedBottom(Trunk):
    """h = bottom(x) [batch, units[-1]], the representation of every task.

    Reference: Caruana. Multitask Learning. Machine Learning 28, 1997.
    """

    def __init__(self, tasks: int, bottom: DenseStack, *, seed: int, **kwargs):
        super().__init__(name="shared_bottom", **kwargs)
        self.tasks = tasks
        self.bottom = bottom.build("bottom", seed=seed)

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return self.bottom(inputs, training=training)

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        return [shared] * self.tasks

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        return [v for v in self.bottom.trainable_variables if "kernel" in v.name][-1:]
