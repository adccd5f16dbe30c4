"""MGDA: the shortest convex combination of the task gradients."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
from pydantic import Field

from models.balancing.base import GramBalancer, Run, State, Weights
from models.balancing.simplex import as_float64, check_task_count, min_norm


class MGDA(GramBalancer):
    """Minimises ‖Σ_k α_k g_k‖² over α >= 0, Σ α = 1: a direction that worsens no task, or zero where none is left.

    Solved exactly at every step: two tasks in closed form, more by comparing the minima on all 2^K - 1 faces of the
    simplex. With `level: representation` this is MGDA-UB, the authors' bound, for one backward pass. A task with the
    shorter gradient weighs more, and a zero gradient takes all the weight; the normalisations are the authors'
    remedy. They change the α that is found; α then weighs the gradients as they are, as in the authors' code.

    Args:
      normalization: g_k is divided by n_k before α is found: `l2`, n_k = ‖g_k‖; `loss`, n_k = L_k; `loss_plus`,
        n_k = L_k ‖g_k‖; 1 where that is not positive.

    Example:
      >>> MGDA(name="mgda", level="representation").normalization
      'none'

    Reference: Sener, Koltun. Multi-Task Learning as Multi-Objective Optimization. NeurIPS 2018.
      Désidéri. Multiple-gradient descent algorithm (MGDA) for multiobjective optimization. C. R. Math. 350, 2012.
    """

    name: Literal["mgda"]
    normalization: Literal["none", "l2", "loss", "loss_plus"] = Field(
        "none", description="Divide each gradient by its norm, its loss or both before weights are found."
    )

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        check_task_count(self.name, tasks)

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        return {}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        if self.normalization != "none":
            gram = as_float64(gram)
            sizes = tf.ones_like(losses, tf.float64)
            if self.normalization in ("l2", "loss_plus"):
                sizes *= tf.sqrt(tf.maximum(tf.linalg.diag_part(gram), 0.0))
            if self.normalization in ("loss", "loss_plus"):
                sizes *= tf.cast(losses, tf.float64)
            usable = tf.logical_and(sizes > 0.0, tf.math.is_finite(sizes))
            sizes = tf.where(usable, sizes, tf.ones_like(sizes))
            gram /= sizes[:, None] * sizes
        return Weights(tf.cast(min_norm(gram), tf.float32), tf.ones_like(losses)), state
