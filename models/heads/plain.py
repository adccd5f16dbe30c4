"""Plain heads: each step learns from the rows that reached it."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.heads.base import Heads, HeadsConfig
from models.tasks import TaskConfig


class PlainConfig(HeadsConfig):
    """The loss of step k is on its own probability, over the rows that reached the step before."""

    name: Literal["plain"]

    def build(self, tasks: tuple[TaskConfig, ...], *, seed: int) -> Plain:
        return Plain(self, tasks, seed=seed)


class Plain(Heads):
    """L_k = BCE(y_k, σ(a_k)) over rows with y_{k-1} = 1 (all rows for the first step): CVR on clicked rows."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.tasks)

    @property
    def spaces(self) -> tuple[int, ...]:
        return tuple(range(len(self.tasks)))

    def losses_per_row(self, logits: list[tf.Tensor], labels: list[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        reached = [tf.ones_like(labels[0]), *labels[:-1]]
        return [
            (tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=a), mask)
            for y, a, mask in zip(labels, logits, reached)
        ]
