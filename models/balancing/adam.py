"""One Adam step as a pure function, for balancers whose logits or weights are learned."""

from __future__ import annotations

import tensorflow as tf

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


def adam_step(
    gradient: tf.Tensor, first: tf.Tensor, second: tf.Tensor, updates: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What to subtract, per unit of learning rate: m̂ / (√v̂ + ε), with β = (0.9, 0.999) and ε = 1e-8.

    Args:
      gradient: of the objective.
      first: running mean of the gradient, 0 at the start.
      second: running mean of its square, 0 at the start.
      updates: scalar float32, 1 at the first update.

    Returns:
      The direction, and the new `first` and `second`.

    Reference: Kingma, Ba. Adam: A Method for Stochastic Optimization. ICLR 2015.
    """
    first = _BETA_1 * first + (1.0 - _BETA_1) * gradient
    second = _BETA_2 * second + (1.0 - _BETA_2) * tf.square(gradient)
    mean = first / (1.0 - tf.pow(_BETA_1, updates))
    square = second / (1.0 - tf.pow(_BETA_2, updates))
    return mean / (tf.sqrt(square) + _EPSILON), first, second
