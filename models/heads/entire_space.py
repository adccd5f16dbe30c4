"""ESMM's heads: every task learns from all impressions, through the product of the steps."""

from __future__ import annotations

import itertools
from typing import Literal

import tensorflow as tf

from models.heads.base import Heads, HeadsConfig
from models.numerics import log1mexp
from models.tasks import TaskConfig


class EntireSpaceConfig(HeadsConfig):
    """The loss of step k is on the product of the steps down to k, over all impressions."""

    name: Literal["entire_space"]

    def build(self, tasks: tuple[TaskConfig, ...], *, seed: int) -> EntireSpace:
        return EntireSpace(self, tasks, seed=seed)


class EntireSpace(Heads):
    """L_k = BCE(y_k, Π_{j<=k} σ(a_j)) over all rows; for the default chain BCE(click, pCTR) + BCE(purchase, pCTCVR).

    pCVR has no loss of its own: it learns as a factor of pCTCVR, so that it is not biased towards
    clicked rows. The product is taken in log space: log p_k = Σ_{j<=k} log σ(a_j) and
    log(1 - p_k) = log1mexp(log p_k).

    Reference: Ma, Zhao, Huang, Wang, Hu, Zhu, Gai. Entire Space Multi-Task Model. SIGIR 2018.
    """

    @property
    def loss_names(self) -> tuple[str, ...]:
        return (self.tasks[0].name, *(str(t.joint) for t in self.tasks[1:]))

    @property
    def spaces(self) -> tuple[int, ...]:
        return (0,) * len(self.tasks)

    def losses_per_row(self, logits: list[tf.Tensor], labels: list[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        log_p = list(itertools.accumulate(tf.math.log_sigmoid(a) for a in logits))
        # The first step's complement is a plain sigmoid: exact also where its probability rounds to 1.
        log_not_p = [tf.math.log_sigmoid(-logits[0])] + [log1mexp(x) for x in log_p[1:]]
        return [(-(y * p + (1.0 - y) * q), tf.ones_like(y)) for y, p, q in zip(labels, log_p, log_not_p)]
