"""Experts: dense stacks of equal shape beside each other, computed together."""

from __future__ import annotations

import math

import tensorflow as tf
import tf_keras as keras

from models.sides import Sides
from models.trunks.base import DenseStack
from models.trunks.dropout import Dropout


class Experts(keras.layers.Layer):
    """f_e(x) for e = 1..E, each a dense stack of its own: [batch, in] -> [batch, E, units[-1]].

    Layer i has one kernel [E, in, units] for all experts. Every expert starts with Glorot values of its own, whose
    bound √(6 / (in + units)) does not count the expert axis.

    Args:
      experts: number of experts E, at least 1.
      expert: layers of each expert.
      seed: decides the initial weights and the dropout.

    Raises:
      ValueError: for less than one expert.

    Example:
      >>> Experts(4, DenseStack(units=(8, 3)), seed=0)(tf.zeros([5, 7])).shape
      TensorShape([5, 4, 3])

    Reference: Glorot, Bengio. Understanding the difficulty of training deep feedforward neural networks. AISTATS 2010.
    """

    def __init__(self, experts: int, expert: DenseStack, *, seed: int, **kwargs):
        super().__init__(**kwargs)
        if experts < 1:
            raise ValueError(f"experts: expected at least 1, got {experts}")
        self.experts = experts
        self.expert = expert
        self.seed = seed
        self.kernels: list[tf.Variable] = []
        self.biases: list[tf.Variable] = []
        self.scales: list[tf.Variable] = []
        self.offsets: list[tf.Variable] = []
        self.activation = keras.activations.get(expert.activation)
        self.normalizations = [
            _normalization(expert.normalization, f"normalization_{i}")
            for i in range(len(expert.units) if expert.normalization != "none" else 0)
        ]
        self.dropouts = [
            Dropout(expert.dropout, seed=seed + 2 * i + 1, name=f"dropout_{i}")
            for i in range(len(expert.units) if expert.dropout else 0)
        ]

    def build(self, input_shape: tf.TensorShape) -> None:
        width = int(input_shape[-1])
        for i, units in enumerate(self.expert.units):
            columns = self.experts * units
            bound = math.sqrt(6 / (width + units))
            self.kernels.append(
                self.add_weight(
                    f"kernel_{i}",
                    shape=[self.experts, width, units],
                    initializer=keras.initializers.RandomUniform(-bound, bound, seed=self.seed + 2 * i),
                )
            )
            if self.expert.uses_bias:
                self.biases.append(self.add_weight(f"bias_{i}", shape=[columns], initializer="zeros"))
            if self.expert.normalization == "layer":
                # The Keras layer has one scale and offset per unit, which the experts would share.
                self.scales.append(self.add_weight(f"scale_{i}", shape=[columns], initializer="ones"))
                self.offsets.append(self.add_weight(f"offset_{i}", shape=[columns], initializer="zeros"))
            width = units
        super().build(input_shape)

    @property
    def last_kernel(self) -> list[tf.Variable]:
        """The kernel of the last layer, of all experts; [] before the first call."""
        return list(self.kernels[-1:])

    def call(self, inputs: tf.Tensor | Sides, training: bool = False) -> tf.Tensor:
        if isinstance(inputs, Sides) and self.compute_dtype != "float32":
            inputs = tf.cast(inputs.whole(), self.compute_dtype)
        # A product per expert: a batched one needs its operands transposed, and is not fused with bias and
        # activation; one product of all experts' first layers has a slower gradient of its input.
        hidden = [inputs] * self.experts
        for i, kernel in enumerate(self.kernels):
            biases = tf.split(self.biases[i], self.experts) if self.biases else None
            if isinstance(hidden[0], Sides):
                hidden = hidden[0].products(kernel, biases)
            else:
                hidden = [tf.matmul(h, k) for h, k in zip(hidden, tf.unstack(kernel))]
                if biases:
                    hidden = [tf.nn.bias_add(h, b) for h, b in zip(hidden, biases)]
            if self.normalizations:
                hidden = self._apart(self._normalized(i, tf.concat(hidden, axis=1), training))
            hidden = [self.activation(h) for h in hidden]
            if self.dropouts:
                hidden = self._apart(self.dropouts[i](tf.concat(hidden, axis=1), training=training))
        return tf.stack(hidden, axis=1)

    def _normalized(self, i: int, hidden: tf.Tensor, training: bool) -> tf.Tensor:
        if self.expert.normalization == "batch":
            return self.normalizations[i](hidden, training=training)  # per column, so per expert as it is
        of_each = tf.reshape(hidden, [-1, self.experts, hidden.shape[-1] // self.experts])
        normal = tf.reshape(self.normalizations[i](of_each), [-1, hidden.shape[-1]])
        return normal * self.scales[i] + self.offsets[i]

    def _apart(self, hidden: tf.Tensor) -> list[tf.Tensor]:
        """[batch, E * units] -> E times [batch, units]."""
        return tf.split(hidden, self.experts, axis=1)


def _normalization(kind: str, name: str) -> keras.layers.Layer:
    if kind == "batch":
        return keras.layers.BatchNormalization(synchronized=True, name=name)
    return keras.layers.LayerNormalization(center=False, scale=False, name=name)
