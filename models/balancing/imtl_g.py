"""IMTL-G: the update has the same projection on every task's gradient."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from models.balancing.base import GramBalancer, State, Weights
from models.balancing.simplex import scaled

# Bounds the weights at 1 / this, where those of equal projections are near 0 in sum.
_LEAST_SUM = 1e-4


class IMTLG(GramBalancer):
    """Finds α with Σ α = 1 such that Σ_j α_j g_j has equal projections on all g_k / ‖g_k‖.

    In closed form, with C the cosines between gradients: α_k ∝ (C⁻¹ 1)_k / ‖g_k‖. Weights can be negative. Where
    the right-hand side is negative in sum, the two conditions together make the projections negative too: the update
    then follows the paper, and worsens every task. Where the sum is almost 0 it is bounded away from it, and Σ α is
    below 1 in size. A zero gradient has no direction: its task has weight 0.

    Example:
      >>> IMTLG(name="imtl_g").initial_state(Run(("ctr", "cvr")))
      {}

    Reference: Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang. Towards Impartial Multi-task Learning. ICLR 2021.
    """

    name: Literal["imtl_g"]

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        g = scaled(gram, 1e-8)
        solved = tf.linalg.solve(g.cosines, tf.ones_like(g.lengths)[:, None])[:, 0]
        weights = tf.where(g.zero, tf.zeros_like(solved), solved / g.lengths)
        total = tf.reduce_sum(weights)
        least = _LEAST_SUM * tf.reduce_sum(tf.abs(weights))
        total = tf.where(total < 0.0, tf.minimum(total, -least), tf.maximum(total, least))
        weights = tf.where(tf.reduce_all(g.zero), tf.ones_like(weights) / gram.shape[0], weights / total)
        return Weights(tf.cast(weights, tf.float32), tf.ones_like(losses)), state
