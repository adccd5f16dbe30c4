"""Uncertainty weighting: a task's weight is the inverse of its learned variance."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field, PositiveFloat

from models.balancing.base import Balancer, Needs, Run, State, Weights


class Uncertainty(Balancer):
    """Minimises Σ_k e^{-s_k} L_k + s_k / 2 over the model and s_k = log σ_k², so w_k = e^{-s_k}.

    The gradient for s_k is closed form, 1/2 - e^{-s_k} L_k, and s_k takes a plain gradient step of its
    own rate, without decay. At rest w_k = 1 / (2 L_k): a rare task, whose loss is small, is weighted
    up by as much, hence the bound on s_k. The objective can be negative and is not a loss to monitor.

    With `variant: log1p` (Liebel and Körner 2018) the objective is Σ_k L_k / (2 σ_k²) + log(1 + σ_k²), which is
    never negative.

    Example:
      >>> Uncertainty(name="uncertainty").initial_state(Run(("ctr", "cvr")))["log_variance"].numpy().tolist()
      [0.0, 0.0]

    Reference: Kendall, Gal, Cipolla. Multi-Task Learning Using Uncertainty to Weigh Losses. CVPR 2018.
      Liebel, Körner. Auxiliary Tasks in Multi-task Learning. arXiv:1805.06334, 2018.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["uncertainty"]
    variant: Literal["kendall", "log1p"] = Field(
        "kendall", description="Objective of Kendall et al., or of Liebel and Körner, which is never negative."
    )
    learning_rate: PositiveFloat = Field(0.01, description="Step size of the log-variances.")
    bound: PositiveFloat = Field(4.0, description="Log-variances stay in [-bound, bound].")

    def initial_state(self, run: Run) -> State:
        return {"log_variance": tf.zeros([len(run.tasks)], tf.float32)}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        s = state["log_variance"]
        if self.variant == "kendall":
            weights = tf.exp(-s)
            gradient = 0.5 - weights * losses
        else:
            weights = 0.5 * tf.exp(-s)
            gradient = tf.sigmoid(s) - weights * losses
        s = tf.clip_by_value(s - self.learning_rate * gradient, -self.bound, self.bound)
        return Weights(weights, weights), {"log_variance": s}
