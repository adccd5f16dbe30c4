"""CAGrad: the direction near the average gradient that helps the worst task most."""

from __future__ import annotations

from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from models.balancing.base import GramBalancer, Run, State, Weights
from models.balancing.simplex import Scaled, best_feasible, check_task_count, faces, scaled, solve_on_faces

# Least eigenvalue of the cosines: where g_w can be made zero its direction is undefined, and weights grow as the
# inverse root of this.
_FLOOR = 1e-7


class CAGrad(GramBalancer):
    """Maximises min_k g_k·d over ‖d - g_0‖ <= c ‖g_0‖, with g_0 the average gradient.

    By duality d = g_0 + (c ‖g_0‖ / ‖g_w‖) g_w with g_w = Σ w_k g_k, where w on the simplex minimises

        F(w) = g_w·g_0 + c ‖g_0‖ ‖g_w‖.

    On each face of the simplex F has a closed-form minimum, so w is the best of 2^K - 1 candidates: exact, with no
    inner loop. The weights are 1/K + c ‖g_0‖ w_k / ‖g_w‖; with c = 0 that is the average. A zero gradient constrains
    nothing and is left out of w. d is not rescaled, as in the paper.

    Args:
      c: how far the direction may be from the average, as a share of its norm.

    Example:
      >>> CAGrad(name="cagrad").c
      0.5

    Reference: Liu, Liu, Jin, Stone, Liu. Conflict-Averse Gradient Descent for Multi-task Learning. NeurIPS 2021.
    """

    name: Literal["cagrad"]
    c: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="Distance allowed from the average gradient, as a share of its norm."
    )

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        check_task_count(self.name, tasks)

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        return {}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        tasks = gram.shape[0]
        g = scaled(gram, _FLOOR)
        present = tf.cast(tf.logical_not(g.zero), tf.float64)
        matrix = g.gram * (present[:, None] * present)
        products = tf.reduce_mean(matrix, axis=1)
        radius = self.c * tf.sqrt(tf.maximum(tf.reduce_mean(products), 0.0))

        def objective(points: tf.Tensor) -> tf.Tensor:
            lengths = tf.sqrt(tf.maximum(tf.reduce_sum(tf.matmul(points, g.gram) * points, axis=1), 0.0))
            with_zero = tf.linalg.matvec(points, 1.0 - present) > 0.0
            values = tf.linalg.matvec(points, products) + radius * lengths
            return tf.where(with_zero, tf.constant(float("inf"), tf.float64), values)

        points, best = best_feasible(_candidates(g, products, radius, tasks), objective)
        w = points[best]
        length = tf.sqrt(tf.reduce_sum(w * tf.linalg.matvec(g.gram, w)))
        weights = 1.0 / tasks + radius / length * w * present
        return Weights(tf.cast(weights, tf.float32), tf.ones_like(losses)), state


def _candidates(g: Scaled, products: tf.Tensor, radius: tf.Tensor, tasks: int) -> tf.Tensor:
    """Corners of the simplex, and the stationary point of F on each face that has one, [n, K] of sum 1.

    Stationarity on a face, b + r G w / ‖g_w‖ = λ 1, gives w ∝ λ G⁻¹1 - G⁻¹b; with ‖g_w‖² = wᵀ G w, λ is the larger
    root of λ² 1ᵀG⁻¹1 - 2 λ 1ᵀG⁻¹b + bᵀG⁻¹b = r².
    """
    right = tf.stack([tf.ones([tasks], tf.float64), products], axis=1)
    ones, given = tf.unstack(solve_on_faces(g, faces(tasks), right), axis=2)
    s1 = tf.reduce_sum(ones, axis=1)
    s2 = tf.reduce_sum(given, axis=1)
    s3 = tf.linalg.matvec(given, products)
    root = s2**2 - s1 * (s3 - radius**2)
    exists = root > 1e-14 * (s2**2 + s1 * radius**2)
    root = tf.sqrt(tf.where(exists, root, tf.ones_like(root)))
    points = (((s2 + root) / s1)[:, None] * ones - given) / root[:, None]
    points = tf.where(exists[:, None], points, -tf.ones_like(points))
    return tf.concat([tf.eye(tasks, dtype=tf.float64), points], axis=0)
