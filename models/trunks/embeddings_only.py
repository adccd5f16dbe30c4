"""ESMM's trunk: the tasks share nothing but the embeddings."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.trunks.base import Trunk, TrunkConfig


class EmbeddingsOnlyConfig(TrunkConfig):
    """Every task reads the embedded features as they are (Ma et al., SIGIR 2018)."""

    name: Literal["embeddings_only"]

    def build(self, tasks: int, *, seed: int) -> EmbeddingsOnly:
        return EmbeddingsOnly(tasks)


class EmbeddingsOnly(Trunk):
    """Hands the embedded features [batch, width] to each of the tasks.

    Reference: Ma, Zhao, Huang, Wang, Hu, Zhu, Gai. Entire Space Multi-Task Model. SIGIR 2018.
    """

    def __init__(self, tasks: int, **kwargs):
        super().__init__(name="embeddings_only", **kwargs)
        self.tasks = tasks

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        return [shared] * self.tasks
