"""Optimizers: row-sparse for embedding tables, dense for everything else."""

from __future__ import annotations

import math
from typing import Any, Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveFloat

from models.section import Section


class _Scheduled(Section):
    learning_rate: PositiveFloat
    schedule: Literal["none", "cosine"] = Field(
        "none", description="After the warm-up: constant, or falling to 0 at the last step along half a cosine."
    )
    warm_up: float = Field(0.0, ge=0, lt=1, description="Share of the steps in which the rate grows linearly from 0.")

    def rate(self, steps: int, scale: float = 1.0) -> float | keras.optimizers.schedules.LearningRateSchedule:
        """The learning rate, times `scale`, of a training run of so many steps."""
        peak = self.learning_rate * scale
        if self.schedule == "none" and self.warm_up == 0:
            return peak
        return Schedule(peak, steps, warm_up=self.warm_up, cosine=self.schedule == "cosine")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or half a cosine down to 0.

    Args:
      peak: rate at the end of the warm-up.
      steps: number of steps of the training run.
      warm_up: share of the steps before the peak.
      cosine: fall after the peak.
    """

    def __init__(self, peak: float, steps: int, *, warm_up: float, cosine: bool):
        self.peak = peak
        self.steps = steps
        self.warm_up = warm_up
        self.cosine = cosine

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        begin = self.warm_up * self.steps
        step = tf.cast(step, tf.float32)
        rate = tf.constant(self.peak, tf.float32)
        if self.cosine:
            done = tf.clip_by_value((step - begin) / max(self.steps - begin, 1.0), 0.0, 1.0)
            rate = rate * 0.5 * (1.0 + tf.cos(math.pi * done))
        if begin:
            rate = tf.where(step < begin, self.peak * step / begin, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warm_up": self.warm_up, "cosine": self.cosine}


class DenseOptimizer(_Scheduled):
    """Adam for the dense layers."""

    learning_rate: PositiveFloat = 0.001
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-7

    def build(self, steps: int, scale: float = 1.0) -> keras.optimizers.Optimizer:
        """The optimizer of a run of so many steps, its rate multiplied by `scale`."""
        return keras.optimizers.legacy.Adam(self.rate(steps, scale), self.beta_1, self.beta_2, self.epsilon)


class EmbeddingOptimizer(_Scheduled):
    """Adagrad for the embedding tables. Its state of a row moves only when the row is looked up, while
    Adam's moments would touch every row of every table at every step."""

    learning_rate: PositiveFloat = 0.01
    initial_accumulator: PositiveFloat = Field(
        # Losses are means over the batch, so a row's gradient is of the order 1 / batch_size: Adagrad's usual 0.1
        # would drown its square, and the embeddings would hardly learn in one epoch.
        1e-8,
        description="Where the sums of squared gradients begin.",
    )
    epsilon: PositiveFloat = 1e-7

    def build(self, steps: int) -> keras.optimizers.Optimizer:
        return RowAdagrad(self.rate(steps), self.initial_accumulator, self.epsilon)


class RowAdagrad(keras.optimizers.legacy.Adagrad):
    """Adagrad that updates only the rows in an IndexedSlices, each of which stands there once.

    The parent class sums the gradients of repeated rows first; a look-up has done that already.
    """

    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices, **kwargs):
        return self._resource_apply_sparse(grad, handle, indices, **kwargs)


class OptimizerConfig(Section):
    """One optimizer for the dense layers, one for the embedding tables."""

    dense: DenseOptimizer = DenseOptimizer()
    embedding: EmbeddingOptimizer = EmbeddingOptimizer()
    embedding_l2: float = Field(0.0, ge=0, description="L2 penalty on the embedding rows that a batch looks up.")
    dense_l2: float = Field(0.0, ge=0, description="L2 penalty on the kernels of the dense layers.")
    clip_norm: PositiveFloat | None = Field(None, description="Bound on the global norm of the combined gradient.")
