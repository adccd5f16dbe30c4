"""From a user's history to one vector that depends on the candidate."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

# Far below every score, yet finite: a row of minus infinities would make the softmax NaN.
_MASKED_SCORE = -1e9


def _built(layer: keras.layers.Layer, width: int) -> keras.layers.Layer:
    """The layer with its weights made for inputs [batch, length, width], before the first batch."""
    with tf.name_scope(layer.name):
        layer.build(tf.TensorShape([None, None, width]))
    return layer


def _per_candidate(history: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    """A history that many candidates share, [1, ...], once for each of them; any other as it is."""
    return tf.repeat(history, tf.shape(candidate)[0], axis=0) if history.shape[0] == 1 else history


class ActivationUnit(keras.layers.Layer):
    """A small network from [batch, length, width] to one score per value, float32 [batch, length].

    Dense layers with PReLU, then one linear output.

    Args:
      width: width of the input.
      units: widths of the hidden layers.
      bias: whether the output has a bias; a softmax over the scores would cancel it.
      seed: decides the initial weights.
    """

    def __init__(self, width: int, units: Sequence[int], *, bias: bool, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden: list[keras.layers.Layer] = []
        for i, size in enumerate(units):
            initializer = keras.initializers.GlorotUniform(seed=seed + i)
            dense = keras.layers.Dense(size, kernel_initializer=initializer, name=f"hidden_{i}")
            # One slope per unit and not per position, so that a list's length does not matter.
            prelu = keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=[1], name=f"prelu_{i}")
            self.hidden += [_built(dense, width), _built(prelu, size)]
            width = size
        initializer = keras.initializers.GlorotUniform(seed=seed + len(units))
        score = keras.layers.Dense(1, use_bias=bias, kernel_initializer=initializer, name="score")
        self.score = _built(score, width)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        for layer in self.hidden:
            inputs = layer(inputs)
        return tf.cast(self.score(inputs)[..., 0], tf.float32)


class TargetAttention(keras.layers.Layer):
    """The sum of a history's values, each weighted by how much it has to do with the candidate.

        v = Σ_l a(h_l, c) h_l,    a = ActivationUnit([h, c, h − c, h ∘ c])

    The weights a are not normalised, so that the length of v tells how strong the interest is. Called on
    ((values [batch, length, width], candidate [batch, width]), present bool [batch, length]); gives
    [batch, width], zeros for an empty history.

    Args:
      width: width of the embeddings.
      units: hidden widths of the activation unit.
      seed: decides the initial weights.

    Reference: Zhou, Zhu, Song, Fan, Zhu, Ma, Yan, Jin, Li, Gai. Deep Interest Network for Click-Through Rate
    Prediction. KDD 2018.
    """

    def __init__(self, width: int, units: Sequence[int], *, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.unit = ActivationUnit(4 * width, units, bias=True, seed=seed, name="unit")
        self.built = True

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], present: tf.Tensor) -> tf.Tensor:
        values, candidate = inputs
        values, present = _per_candidate(values, candidate), _per_candidate(present, candidate)
        candidates = tf.broadcast_to(candidate[:, tf.newaxis, :], tf.shape(values))
        scores = self.unit(tf.concat([values, candidates, values - candidates, values * candidates], axis=-1))
        weights = tf.where(present, scores, tf.zeros_like(scores))
        return tf.einsum("bl,bld->bd", tf.cast(weights, values.dtype), values)


class LstmAttention(keras.layers.Layer):
    """An LSTM over a history, and an attention of the candidate over its states.

        s_l = LSTM(h_l, s_{l−1}),    v = Σ_l softmax_l(ActivationUnit([s_l, c])) s_l

    Where a value is padding the state stays as it is and the softmax leaves it out. Shapes are those of
    `TargetAttention`. The paper's property gates and the user's part of the attention are not here. The
    recurrence is a loop of matrix products on any device: XLA takes over a minute for 50 steps written out one by
    one, and under a second for the loop.

    Args:
      width: width of the embeddings and of the state.
      units: hidden widths of the attention's network.
      seed: decides the initial weights.

    Reference: Ni, Ou, Liu, Li, Ou, Zeng, Si. Perceive Your Users in Depth: Learning Universal User
    Representations from Multiple E-commerce Tasks. KDD 2018.
    """

    def __init__(self, width: int, units: Sequence[int], *, seed: int, **kwargs):
        super().__init__(**kwargs)
        # A forget gate that starts open lets gradients reach the oldest values.
        forget_open = keras.initializers.Constant([0.0] * width + [1.0] * width + [0.0] * (2 * width))
        from_value = keras.layers.Dense(
            4 * width,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            bias_initializer=forget_open,
            name="from_value",
        )
        from_state = keras.layers.Dense(
            4 * width,
            use_bias=False,
            kernel_initializer=keras.initializers.Orthogonal(seed=seed + 1),
            name="from_state",
        )
        self.from_value, self.from_state = _built(from_value, width), _built(from_state, width)
        self.unit = ActivationUnit(2 * width, units, bias=False, seed=seed + 2, name="unit")
        self.built = True

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], present: tf.Tensor) -> tf.Tensor:
        values, candidate = inputs
        states = _per_candidate(self._states(values, present), candidate)
        present = _per_candidate(present, candidate)
        candidates = tf.broadcast_to(tf.cast(candidate, tf.float32)[:, tf.newaxis, :], tf.shape(states))
        scores = self.unit(tf.concat([states, candidates], axis=-1))
        weights = tf.nn.softmax(tf.where(present, scores, tf.fill(tf.shape(scores), _MASKED_SCORE)), axis=1)
        # An empty history would else weigh its padding equally.
        weights = tf.where(present, weights, tf.zeros_like(weights))
        return tf.einsum("bl,bld->bd", weights, states)

    def _states(self, values: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """The state after each value, float32 [batch, length, width]: bfloat16 would lose small changes of the cell."""
        from_values = tf.transpose(tf.cast(self.from_value(values), tf.float32), [1, 0, 2])
        is_value = tf.transpose(present)[..., tf.newaxis]

        def step(before: tuple[tf.Tensor, tf.Tensor], at: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            (state, cell), (from_value, is_value) = before, at
            gates = from_value + tf.cast(self.from_state(state), tf.float32)
            write, keep, new, show = tf.split(gates, 4, axis=-1)
            next_cell = tf.sigmoid(keep) * cell + tf.sigmoid(write) * tf.tanh(new)
            next_state = tf.sigmoid(show) * tf.tanh(next_cell)
            return tf.where(is_value, next_state, state), tf.where(is_value, next_cell, cell)

        zeros = tf.zeros_like(values[:, 0], tf.float32)
        states, _ = tf.scan(step, (from_values, is_value), initializer=(zeros, zeros))
        return tf.transpose(states, [1, 0, 2])
