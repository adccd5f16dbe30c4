"""Aligned-MTL: the task gradients made orthogonal and equally long."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.balancing.base import GramBalancer, State, Weights
from models.balancing.simplex import as_float64


class AlignedMTL(GramBalancer):
    """Replaces the gradients by the nearest ones that are orthogonal and equally long, and sums them.

    With G = V Λ Vᵀ and σ² its least eigenvalue that is not zero, the weights are w = B 1, B = σ V Λ^{-1/2} Vᵀ.
    Eigenvalues below float32's rounding, K ε of the largest, are left out of both. Weights are at most √K in size,
    and can be negative. Where all gradients are zero they are 1.

    Example:
      >>> AlignedMTL(name="aligned_mtl").initial_state(Run(("ctr", "cvr")))
      {}

    Reference: Senushkin, Patakin, Kuznetsov, Konushin. Independent Component Alignment for Multi-Task Learning.
      CVPR 2023.
    """

    name: Literal["aligned_mtl"]

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        gram = as_float64(gram)
        trace = tf.linalg.trace(gram)
        values, vectors = tf.linalg.eigh(tf.math.divide_no_nan(gram, trace))
        kept = values > gram.shape[0] * 1.2e-7 * values[-1]
        least = tf.reduce_min(tf.where(kept, values, tf.ones_like(values)))
        ratios = tf.where(kept, tf.sqrt(least / tf.where(kept, values, tf.ones_like(values))), tf.zeros_like(values))
        weights = tf.linalg.matvec(vectors, ratios * tf.reduce_sum(vectors, axis=0))
        weights = tf.where(trace > 0.0, weights, tf.ones_like(weights))
        return Weights(tf.cast(weights, tf.float32), tf.ones_like(losses)), state
