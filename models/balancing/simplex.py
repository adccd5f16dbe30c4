"""Small algebra that several balancers share, in float64: scaled Gram matrices and minima on the simplex."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MOST_TASKS = 10
"""The most tasks for which all 2^K - 1 faces of the simplex are tried."""


class Scaled(NamedTuple):
    """A Gram matrix as lengths and cosines, G_ij = s² l_i C_ij l_j with s the longest gradient's length, float64.

    Attributes:
      lengths: [K], 1 for the longest gradient, and 1 for a zero gradient, so that it can be divided by.
      cosines: [K, K], eigenvalues at least the floor that was asked for; a zero gradient is orthogonal to all.
      zero: [K] bool: the gradient is zero.
    """

    lengths: tf.Tensor
    cosines: tf.Tensor
    zero: tf.Tensor

    @property
    def gram(self) -> tf.Tensor:
        """[K, K]: the Gram matrix over s², with its cosines' eigenvalues raised to the floor."""
        return self.lengths[:, None] * self.cosines * self.lengths


def check_task_count(name: str, tasks: tuple[str, ...]) -> None:
    """Refuses more tasks than can be tried face by face.

    Raises:
      ValueError: naming the balancer and the limit.
    """
    if len(tasks) > MOST_TASKS:
        raise ValueError(f"balancer {name}: expected at most {MOST_TASKS} tasks, got {len(tasks)}")


def as_float64(gram: tf.Tensor) -> tf.Tensor:
    """The Gram matrix in float64, with 0 for what is not finite.

    A gradient that is not finite stays so whatever its weight; decompositions of such a matrix would stop
    the step with an error about the solver instead.
    """
    gram = tf.cast(gram, tf.float64)
    return tf.where(tf.math.is_finite(gram), gram, tf.zeros_like(gram))


def scaled(gram: tf.Tensor, floor: float) -> Scaled:
    """Lengths and cosines of the gradients.

    Scaling each gradient on its own keeps tasks of very different gradients exact. The floor makes the
    matrix definite where gradients are linearly dependent, and picks one of the minima there.

    Args:
      gram: [K, K].
      floor: the least eigenvalue of the cosines.
    """
    gram = as_float64(gram)
    squares = tf.maximum(tf.linalg.diag_part(gram), 0.0)
    zero = tf.equal(squares, 0.0)
    norms = tf.sqrt(tf.where(zero, tf.ones_like(squares), squares))
    any_zero = tf.logical_or(zero[:, None], zero)
    cosines = tf.where(any_zero, tf.zeros_like(gram), gram / (norms[:, None] * norms))
    cosines = tf.linalg.set_diag(tf.clip_by_value(cosines, -1.0, 1.0), tf.ones_like(squares))
    values, vectors = tf.linalg.eigh(cosines)
    cosines = tf.matmul(vectors * tf.maximum(values, floor), vectors, transpose_b=True)
    largest = tf.sqrt(tf.reduce_max(squares))
    lengths = tf.where(zero, tf.ones_like(norms), tf.math.divide_no_nan(norms, largest))
    return Scaled(lengths, cosines, zero)


def faces(tasks: int) -> np.ndarray:
    """[2^K - 1, K]: the corners of each face of the simplex, as 0 and 1."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=tasks))[1:])


def solve_on_faces(gram: Scaled, corners: np.ndarray, right: tf.Tensor) -> tf.Tensor:
    """Solves G_SS x = b_S for each face S in one batch; x is 0 outside S.

    Args:
      gram: its scaled matrix is definite, and so is each part of it.
      corners: [faces, K], from `faces`.
      right: [K, n], n right-hand sides.

    Returns:
      [faces, K, n].
    """
    inside = tf.constant(corners)
    matrices = gram.cosines * (inside[:, :, None] * inside[:, None, :]) + tf.linalg.diag(1.0 - inside)
    inverse = 1.0 / gram.lengths[:, None]
    return inverse * tf.linalg.solve(matrices, inside[:, :, None] * (inverse * right))


def min_norm(gram: tf.Tensor) -> tf.Tensor:
    """Minimiser of αᵀ G α over the simplex, [K] float64.

    Two tasks: the closed form α_1 = clip((G_22 - G_12) / (G_11 + G_22 - 2 G_12), 0, 1). More: on each face the
    minimum is at α ∝ G_SS⁻¹ 1, and the best of those that lie in the simplex is exact. The corners always
    do, so the result is feasible whatever the matrix. Zero gradients share the weight; equal ones weigh the same.

    Args:
      gram: [K, K], K <= `MOST_TASKS`.
    """
    tasks = gram.shape[-1]
    if tasks == 2:
        gram = as_float64(gram)
        a, b, c = gram[0, 0], gram[0, 1], gram[1, 1]
        apart = a + c - 2.0 * b
        # Closer than that, what float32 kept of the difference is rounding.
        told = apart > 1e-14 * (a + c)
        # Both by the formula: one less the other would round a weight of 1e-25 to 0.
        weights = tf.stack([c - b, a - b]) / tf.where(told, apart, tf.ones_like(apart))
        return tf.where(told, tf.clip_by_value(weights, 0.0, 1.0), tf.constant(0.5, tf.float64))
    g = scaled(gram, 1e-8)
    points = solve_on_faces(g, faces(tasks), tf.ones([tasks, 1], tf.float64))[:, :, 0]
    points /= tf.reduce_sum(points, axis=1, keepdims=True)
    points, best = best_feasible(points, lambda w: tf.reduce_sum(tf.matmul(w, g.gram) * w, axis=1))
    zero = tf.cast(g.zero, tf.float64)
    zeros = tf.reduce_sum(zero)
    return tf.where(zeros > 0.0, tf.math.divide_no_nan(zero, zeros), points[best])


def best_feasible(points: tf.Tensor, objective: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The points put on the simplex, and the index of the one with the least objective among those that were on it.

    Args:
      points: [n, K], each of sum 1, with n >= 1; at least one must be on the simplex, to rounding.
      objective: [n, K] -> [n], finite on the simplex.
    """
    feasible = tf.reduce_min(points, axis=1) >= -1e-9
    points = tf.where(feasible[:, None], tf.maximum(points, 0.0), tf.zeros_like(points))
    points = tf.math.divide_no_nan(points, tf.reduce_sum(points, axis=1, keepdims=True))
    values = tf.where(feasible, objective(points), tf.constant(float("inf"), tf.float64))
    return points, tf.argmin(values)


def project_to_simplex(point: tf.Tensor, total: float) -> tf.Tensor:
    """The nearest w to the point with Σ w = total and w >= 0: one sort.

    Args:
      point: [K].
      total: >= 0.

    Reference: Duchi, Shalev-Shwartz, Singer, Chandra. Efficient Projections onto the l1-Ball for Learning in High
      Dimensions. ICML 2008.
    """
    descending = tf.sort(point, direction="DESCENDING")
    count = tf.range(1, point.shape[0] + 1, dtype=point.dtype)
    shift = (tf.cumsum(descending) - total) / count
    # Shifts rise while their point is above them and fall after: the largest is the one to take off.
    return tf.maximum(point - tf.reduce_max(shift), 0.0)
