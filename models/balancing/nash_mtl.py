"""Nash-MTL: task weights as the solution of a bargaining game."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.balancing.base import GramBalancer, Run, State, Weights
from models.balancing.simplex import scaled

# Least eigenvalue of the cosines: where a positive combination of the gradients is zero, weights would be infinite.
# They grow as the inverse root of this, and the sum of gradients so weighted must stay above float32's rounding.
_FLOOR = 1e-5
_MOST_STEPS = 60


class NashMTL(GramBalancer):
    """Finds α > 0 with G α = 1/α, elementwise: each task gains the same share, g_k·Δ = 1/α_k.

    That is the minimum of ½ αᵀ G α - Σ_k log α_k, convex and self-concordant, found by damped Newton steps
    from the last step's weights. In β_k = ‖g_k‖ α_k only the cosines between gradients are left, so that no task
    dominates by the length of its gradient. As in the authors' code G is divided by its Frobenius norm first, so that
    the update grows with the gradients. A task with a zero gradient has weight 1.

    Example:
      >>> NashMTL(name="nash_mtl").initial_state(Run(("ctr", "cvr")))["alpha"].numpy().tolist()
      [1.0, 1.0]

    Reference: Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya. Multi-Task Learning as a Bargaining Game.
      ICML 2022.
    """

    name: Literal["nash_mtl"]

    def initial_state(self, run: Run) -> State:
        return {"alpha": tf.ones([len(run.tasks)], tf.float32)}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        g = scaled(gram, _FLOOR)
        present = tf.cast(tf.logical_not(g.zero), tf.float64)
        sizes = tf.sqrt(tf.norm(g.gram * (present[:, None] * present)))
        lengths = g.lengths / tf.where(sizes > 0.0, sizes, tf.ones_like(sizes))
        shares = _bargain(g.cosines, tf.cast(state["alpha"], tf.float64) * lengths)
        alpha = tf.cast(tf.where(g.zero, tf.ones_like(shares), shares / lengths), tf.float32)
        return Weights(alpha, tf.ones_like(losses)), {"alpha": alpha}


def _bargain(cosines: tf.Tensor, guess: tf.Tensor) -> tf.Tensor:
    """β > 0 with C β = 1/β; C positive definite with a diagonal of about 1."""
    tasks = tf.cast(tf.shape(guess)[0], tf.float64)
    eye = tf.eye(tf.shape(guess)[0], dtype=tf.float64)

    def best_length(point: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The point at its best length t² = K / βᵀCβ, and the objective there without its constants."""
        point *= tf.sqrt(tasks / tf.reduce_sum(point * tf.linalg.matvec(cosines, point)))
        return point, -tf.reduce_sum(tf.math.log(point))

    last, value = best_length(tf.clip_by_value(guess / tf.reduce_max(guess), 1e-12, 1.0))
    even, even_value = best_length(tf.ones_like(guess))
    start = tf.where(value < even_value, last, even)

    def newton(step: tf.Tensor, point: tf.Tensor, decrement: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # In units of β the Hessian is BCB + I, whose eigenvalues are at least 1.
        slope = 1.0 - point * tf.linalg.matvec(cosines, point)
        move = tf.linalg.solve(point[:, None] * cosines * point + eye, slope[:, None])[:, 0]
        decrement = tf.sqrt(tf.maximum(tf.reduce_sum(move * slope), 0.0))
        # Self-concordance: the damped step keeps β positive and falls, the whole one does near the minimum.
        size = tf.where(decrement < 0.25, tf.ones_like(decrement), 1.0 / (1.0 + decrement))
        return step + 1, point * (1.0 + size * move), decrement

    _, point, _ = tf.while_loop(
        lambda step, point, decrement: decrement > 1e-5,
        newton,
        (tf.constant(0), start, tf.constant(1.0, tf.float64)),
        maximum_iterations=_MOST_STEPS,
    )
    return point
