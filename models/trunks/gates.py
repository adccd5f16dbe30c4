"""Gates: how much a task takes from each expert."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from models.sides import Dense


class Gate(keras.layers.Layer):
    """g(x) = softmax(W x), without bias: [batch, in] -> float32 [batch, E].

    One layer per task, never one kernel for all of them: which parameters a loss reaches is read off the graph.
    The softmax is in float32 whatever the precision of the layers.

    Args:
      experts: number of experts E.
      seed: decides the initial weights.
    """

    def __init__(self, experts: int, *, seed: int, **kwargs):
        super().__init__(**kwargs)
        initializer = keras.initializers.GlorotUniform(seed=seed)
        self.logits = Dense(experts, use_bias=False, kernel_initializer=initializer, name="logits")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(self.logits(inputs), tf.float32))


def mix(gate: tf.Tensor, groups: Sequence[tf.Tensor]) -> tf.Tensor:
    """Σ_e g_e f_e(x): [batch, d].

    Args:
      gate: [batch, E].
      groups: expert outputs [batch, E_i, d], with Σ E_i = E in the order of the gate. They are not joined in one
        tensor, which would cost a copy of them all.
    """
    parts = tf.split(gate, [group.shape[1] for group in groups], axis=1)
    return tf.add_n([tf.reduce_sum(tf.cast(g, f.dtype)[:, :, None] * f, axis=1) for g, f in zip(parts, groups)])
