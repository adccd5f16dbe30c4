"""How far a loss has come: the ratio that DWA, HTW and GradNorm read."""

from __future__ import annotations

import tensorflow as tf

_SMALLEST = 1e-30
_LARGEST = 1e15


def loss_ratio(now: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
    """now / before elementwise, in [0, 1e15], float32; 1 where `before` is 0 and nothing is known.

    The bound leaves room in float32 for the product of a weight and a loss.
    """
    known = before > _SMALLEST
    ratio = now / tf.where(known, before, tf.ones_like(before))
    return tf.where(known, tf.clip_by_value(ratio, 0.0, _LARGEST), tf.ones_like(ratio))
