"""Joint heads: each tower predicts the probability of its step over all impressions, on its own."""

from __future__ import annotations

import itertools
from typing import Literal

import tensorflow as tf
from pydantic import Field

from models.heads.base import Heads, HeadsConfig
from models.replicas import sum_over_replicas
from models.tasks import TaskConfig


class JointConfig(HeadsConfig):
    """The loss of step k is on a probability of its own for all steps down to k, over all impressions."""

    name: Literal["joint"]
    calibrator: float = Field(
        0.0,
        ge=0,
        description="Weight of the loss on probabilities that grow down the funnel (AITM's calibrator; 0.6 there).",
    )

    def build(self, tasks: tuple[TaskConfig, ...], *, seed: int) -> Joint:
        return Joint(self, tasks, seed=seed)


class Joint(Heads):
    """L_k = BCE(y_k, p_k) over all rows, p_k = σ(a_k): for the default chain BCE(click, pCTR) + BCE(purchase, pCTCVR).

    The towers know nothing of each other, so p_k may exceed p_{k-1}. AITM's behavioural expectation calibrator makes
    that rare: calibrator · Σ_{k>=2} mean(max(p_k - p_{k-1}, 0)) is added to the loss, outside the balancing. With
    entire-space heads it would be 0 by construction: there p_k is a product with p_{k-1}.

    A step's conditional probability is min(1, p_k / p_{k-1}), taken in log space. No loss is on it, and where the
    minimum acts it times p_{k-1} is not p_k.

    Reference: Xi, Chen, Yan, Zhang, Zhu, Zhuang, Chen. Modeling the Sequential Dependence among Audience Multi-step
    Conversions with Multi-task Learning in Targeted Display Advertising. KDD 2021.
    """

    def __init__(self, config: JointConfig, tasks: tuple[TaskConfig, ...], *, seed: int, **kwargs):
        super().__init__(config, tasks, seed=seed, **kwargs)
        self.calibrator = config.calibrator

    @property
    def loss_names(self) -> tuple[str, ...]:
        return (self.tasks[0].name, *(str(t.joint) for t in self.tasks[1:]))

    @property
    def spaces(self) -> tuple[int, ...]:
        return (0,) * len(self.tasks)

    def losses_per_row(self, logits: list[tf.Tensor], labels: list[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        return [
            (tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=a), tf.ones_like(y))
            for y, a in zip(labels, logits)
        ]

    def penalty(self, logits: list[tf.Tensor], weights: tf.Tensor | None = None) -> tf.Tensor | None:
        if not self.calibrator:
            return None
        p = [tf.sigmoid(a) for a in logits]
        per_row = tf.add_n([tf.nn.relu(later - before) for before, later in itertools.pairwise(p)])
        excess = tf.reduce_sum(per_row if weights is None else per_row * weights[:, 0])
        (rows,) = sum_over_replicas([tf.cast(tf.shape(logits[0])[0], tf.float32)])
        return self.calibrator * tf.math.divide_no_nan(excess, rows)

    def probabilities(self, logits: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        log_p = [tf.math.log_sigmoid(a) for a in logits]
        named = {"p" + self.tasks[0].name: tf.sigmoid(logits[0])}
        for task, before, later in zip(self.tasks[1:], log_p, log_p[1:]):
            named["p" + task.name] = tf.exp(tf.minimum(later - before, 0.0))
        return named | {"p" + str(t.joint): tf.sigmoid(a) for t, a in zip(self.tasks[1:], logits[1:])}
