"""Logarithms of probabilities that neither overflow nor give NaN gradients."""

from __future__ import annotations

import math

import tensorflow as tf

# The largest log-probability that log1mexp tells from 0. Far above float32's smallest normal
# number, so that the derivative 1/x stays finite.
_LARGEST_LOG = -1e-30


def log1mexp(x: tf.Tensor) -> tf.Tensor:
    """log(1 - exp(x)) for x <= 0, elementwise; finite with finite gradients in float32.

    Two formulas, each where it is exact (Mächler 2012): log(-expm1(x)) near 0 and log1p(-exp(x))
    below -log 2. Each branch sees only arguments that are safe for it, because the gradient of
    `tf.where` multiplies the branch not taken by 0, and 0 * inf is NaN.
    """
    x = tf.minimum(x, tf.constant(_LARGEST_LOG, x.dtype))
    near_zero = x > -math.log(2.0)
    near = tf.where(near_zero, x, tf.constant(-0.5, x.dtype))
    far = tf.where(near_zero, tf.constant(-1.0, x.dtype), x)
    return tf.where(near_zero, tf.math.log(-tf.math.expm1(near)), tf.math.log1p(-tf.exp(far)))
