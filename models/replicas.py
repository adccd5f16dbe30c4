"""Sums over the replicas of a distribution strategy; the value itself where there is one replica."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def replicas() -> int:
    """Number of replicas that train in step; 1 outside of a strategy and where variables are made."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1


def sum_over_replicas(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Each tensor's sum over the replicas, the same on each of them."""
    if replicas() == 1 or not tensors:
        return list(tensors)
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def gather_from_replicas(ids: tf.Tensor) -> tf.Tensor:
    """The concatenation [Σ n] of every replica's vector [n], the same on each of them."""
    if replicas() == 1:
        return ids
    return tf.distribute.get_replica_context().all_gather(ids, axis=0)
