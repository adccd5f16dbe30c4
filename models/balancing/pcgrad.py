"""PCGrad: each task's gradient loses its part against every other's."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.balancing.base import GramBalancer, State, Weights
from models.balancing.simplex import as_float64


class PCGrad(GramBalancer):
    """For each task i, from g_i' = g_i, and each j ≠ i in random order: where g_i'·g_j < 0,

        g_i' <- g_i' - (g_i'·g_j / ‖g_j‖²) g_j,

    always against the original g_j; the update is the sum Σ_i g_i'. Where no two tasks conflict it is the plain sum.
    For two tasks in conflict, w_1 = 1 - g_1·g_2 / ‖g_1‖² and w_2 = 1 - g_1·g_2 / ‖g_2‖². The order is new for each i
    at each step. Each g_i' is kept as a row of coefficients over the K gradients, so the Gram matrix is all that is
    read. Nothing is projected against a zero gradient.

    Example:
      >>> PCGrad(name="pcgrad").per_layer
      False

    Reference: Yu, Kumar, Gupta, Levine, Hausman, Finn. Gradient Surgery for Multi-Task Learning. NeurIPS 2020.
    """

    name: Literal["pcgrad"]

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        gram = as_float64(gram)
        tasks = gram.shape[0]
        orders = others_in_random_order(tasks, seed)
        against = tf.unstack(tf.matmul(orders, gram))
        norms = tf.unstack(tf.linalg.matvec(orders, tf.linalg.diag_part(gram)))
        rows = tf.eye(tasks, dtype=tf.float64)
        for chosen, products, norm in zip(tf.unstack(orders), against, norms):
            inner = tf.minimum(tf.reduce_sum(rows * products, axis=1), 0.0)
            rows -= tf.math.divide_no_nan(inner, norm)[:, None] * chosen
        return Weights(tf.cast(tf.reduce_sum(rows, axis=0), tf.float32), tf.ones_like(losses)), state


def others_in_random_order(tasks: int, seed: tf.Tensor) -> tf.Tensor:
    """For each task the other tasks in a random order of its own.

    Returns:
      [K - 1, K, K] float64, one-hot: at place p, task i meets j where [p, i, j] is 1.
    """
    # Philox by name, because the default differs between devices and under XLA.
    keys = tf.random.stateless_uniform([tasks, tasks], seed, alg="philox")
    # A task's own key is above all others, so that it comes last and is dropped.
    keys = tf.linalg.set_diag(keys, tf.fill([tasks], 2.0))
    orders = tf.transpose(tf.argsort(keys, axis=1))[: tasks - 1]
    return tf.one_hot(orders, tasks, dtype=tf.float64)
