"""One request's input to the dense layers: the columns that its candidates share are there once."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


class SplitKernels(tf.Module):
    """The kernels of first layers, cut by rows into the part of the shared columns and that of the others.

    Copies, made once: a server would else copy the kernels' rows at every request.

    Args:
      once: columns of the embedded input that all candidates of a request share.
      each: the other columns.
    """

    def __init__(self, once: list[int], each: list[int]):
        super().__init__(name="split_kernels")
        self._columns = (once, each)
        self._places: dict = {}
        self.parts: list[tf.Variable] = []

    def __getitem__(self, kernel: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        """Both parts of a kernel [..., in, out]; made the first time, which must be outside of a tf.function."""
        if kernel.ref() not in self._places:
            self._places[kernel.ref()] = len(self.parts)
            for name, columns in zip(("once", "each"), self._columns):
                part = tf.gather(kernel, tf.constant(columns, tf.int32), axis=-2)  # there may be none
                self.parts.append(tf.Variable(part, trainable=False, name=f"{name}_{len(self.parts)}"))
        place = self._places[kernel.ref()]
        return self.parts[place], self.parts[place + 1]

    def columns_in_order(self) -> list[int]:
        """Where each column of the embedded input stands in [once, each]."""
        place = {column: i for i, column in enumerate(self._columns[0] + self._columns[1])}
        return [place[column] for column in range(len(place))]


class Sides:
    """The embedded input [N, width] of one request with N candidates, in two parts.

    A first layer's x W + b is x_each W_each + (x_once W_once + b): the request's part is computed once, as a bias.
    A plain object, so that Keras passes it on as it is; `Dense`, `Stack` and `Experts` know it.

    Args:
      once: [1, columns that all candidates share].
      each: [N, the other columns].
      kernels: how kernels are split by these columns.
    """

    def __init__(self, once: tf.Tensor, each: tf.Tensor, kernels: SplitKernels):
        self.once = once
        self.each = each
        self.kernels = kernels

    def product(self, kernel: tf.Variable, bias: tf.Variable | None) -> tf.Tensor:
        """x W + b, float32 [N, out]."""
        return self._product(*self.kernels[kernel], bias)

    def products(self, kernels: tf.Variable, biases: list[tf.Tensor] | None) -> list[tf.Tensor]:
        """x W_e + b_e for each kernel of [E, in, out], float32 [N, out]."""
        of_once, of_each = (tf.unstack(part) for part in self.kernels[kernels])
        return [self._product(*parts) for parts in zip(of_once, of_each, biases or [None] * len(of_once))]

    def _product(self, of_once: tf.Tensor, of_each: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        shared = tf.matmul(self.once, of_once)[0]
        # As a bias, so that product, bias and activation become one operation.
        return tf.nn.bias_add(tf.matmul(self.each, of_each), shared if bias is None else shared + bias)

    def whole(self) -> tf.Tensor:
        """The embedded input [N, width], for layers that need a candidate's columns beside the request's."""
        rows = tf.shape(self.each)[0]
        joined = tf.concat([tf.repeat(self.once, rows, axis=0), self.each], axis=1)
        return tf.gather(joined, tf.constant(self.kernels.columns_in_order(), tf.int32), axis=1)


class Dense(keras.layers.Dense):
    """Keras' dense layer, which also takes `Sides`."""

    def __call__(self, inputs, *args, **kwargs):
        if not isinstance(inputs, Sides):
            return super().__call__(inputs, *args, **kwargs)
        if self.compute_dtype != "float32":  # two products rounded apart would not be the one that was trained
            return super().__call__(inputs.whole(), *args, **kwargs)
        return self.activation(inputs.product(self.kernel, self.bias if self.use_bias else None))


class Stack(keras.Sequential):
    """Keras' sequence of layers, which also takes `Sides`."""

    # As a subclass is called for the first time, Keras would have itself converted, for seconds.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, *args, **kwargs):
        if not isinstance(inputs, Sides):
            return super().__call__(inputs, *args, **kwargs)
        first, *rest = self.layers
        outputs = first(inputs)
        for layer in rest:
            outputs = layer(outputs)
        return outputs
