"""Dropout whose random sequence has a position that a checkpoint holds."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


class Dropout(keras.layers.Layer):
    """y = x m / (1 - rate), m ~ Bernoulli(1 - rate) per element, in training; y = x otherwise.

    The mask of training call n is a function of (seed, n) alone, and n is a weight of the layer: training that
    goes on from a checkpoint draws the masks that it would have drawn without the break. Keras' own layer keeps
    its position outside the checkpoint.

    Args:
      rate: share of the elements that are dropped, in [0, 1).
      seed: decides the sequence of masks.

    Raises:
      ValueError: for a rate outside [0, 1).

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov. Dropout: A Simple Way to Prevent Neural
    Networks from Overfitting. JMLR 15, 2014 (in its inverted form, which leaves inference alone).
    """

    def __init__(self, rate: float, *, seed: int, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate: expected a number in [0, 1), got {rate}")
        self.rate = rate
        self.seed = seed

    def build(self, input_shape: tf.TensorShape) -> None:
        self.position = self.add_weight(
            "position",
            shape=(),
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.position.read_value()])
        self.position.assign_add(1)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            # Replicas see different rows, which need masks of their own.
            seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(replica.replica_id_in_sync_group, tf.int64))
        # Drawn in float32 whatever the input: a bfloat16 draw has steps of 1/128, and the share dropped would
        # not be the one that the scale makes up for.
        kept = tf.random.stateless_uniform(tf.shape(inputs), seed) >= self.rate
        return tf.where(kept, inputs / tf.cast(1 - self.rate, inputs.dtype), tf.zeros_like(inputs))
