"""Attention over histories against NumPy, on the layers' own weights."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from models.histories import LstmAttention, TargetAttention

WIDTH, UNITS, LENGTH = 4, (6, 5), 5
COUNTS = (5, 1, 3, 0)
LAYERS = (TargetAttention, LstmAttention)


def made(layer, seed=0):
    """A layer whose biases and slopes differ from their initial values, so that a lost one is noticed."""
    built = layer(WIDTH, UNITS, seed=seed, name="history")
    rng = np.random.default_rng(1)
    for weight in built.trainable_variables:
        weight.assign_add(rng.normal(scale=0.1, size=weight.shape))
    return built


def batch(padding=0.0, length=LENGTH):
    """Histories of COUNTS values, and candidates; `padding` stands in the places without a value."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(COUNTS), LENGTH, WIDTH)).astype(np.float32)
    candidate = rng.normal(size=(len(COUNTS), WIDTH)).astype(np.float32)
    present = np.arange(length) < np.array(COUNTS)[:, None]
    values = np.concatenate([values, np.zeros((len(COUNTS), length - LENGTH, WIDTH), np.float32)], axis=1)
    return np.where(present[..., None], values, np.float32(padding)), candidate, present


def run(layer, values, candidate, present):
    return layer((tf.constant(values), tf.constant(candidate)), tf.constant(present)).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit_score(unit, x):
    """The activation unit on one vector: dense layers with PReLU, then one linear output."""
    for dense, prelu in zip(unit.hidden[::2], unit.hidden[1::2]):
        x = x @ dense.kernel.numpy() + dense.bias.numpy()
        x = np.where(x > 0, x, prelu.alpha.numpy()[0] * x)
    bias = unit.score.bias.numpy()[0] if unit.score.use_bias else 0.0
    return (x @ unit.score.kernel.numpy())[0] + bias


def target_attention(layer, values, candidate, count):
    out = np.zeros(WIDTH)
    for h in values[:count]:
        out += unit_score(layer.unit, np.concatenate([h, candidate, h - candidate, h * candidate])) * h
    return out


def lstm_attention(layer, values, candidate, count):
    state, cell, states = np.zeros(WIDTH), np.zeros(WIDTH), []
    for h in values[:count]:
        gates = h @ layer.from_value.kernel.numpy() + layer.from_value.bias.numpy()
        gates = gates + state @ layer.from_state.kernel.numpy()
        write, keep, new, show = np.split(gates, 4)
        cell = sigmoid(keep) * cell + sigmoid(write) * np.tanh(new)
        state = sigmoid(show) * np.tanh(cell)
        states.append(state)
    if not states:
        return np.zeros(WIDTH)
    scores = np.exp([unit_score(layer.unit, np.concatenate([s, candidate])) for s in states])
    return (scores / scores.sum()) @ np.array(states)


@pytest.mark.parametrize(("layer", "reference"), [(TargetAttention, target_attention), (LstmAttention, lstm_attention)])
def test_is_the_paper_s_formula(layer, reference):
    built = made(layer)
    values, candidate, present = batch()
    expected = [reference(built, v, c, n) for v, c, n in zip(values.astype(float), candidate.astype(float), COUNTS)]
    got = run(built, values, candidate, present)
    assert np.abs(expected[0]).min() > 1e-4
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_recurrence_is_that_of_keras():
    layer = made(LstmAttention)
    values, _, present = batch()
    keras_lstm = keras.layers.LSTM(WIDTH, return_sequences=True)
    keras_lstm.build((None, LENGTH, WIDTH))
    keras_lstm.set_weights([layer.from_value.kernel, layer.from_state.kernel, layer.from_value.bias])
    expected = keras_lstm(tf.constant(values), mask=tf.constant(present)).numpy()
    got = layer._states(tf.constant(values), tf.constant(present)).numpy()
    np.testing.assert_allclose(got[present], expected[present], rtol=1e-4, atol=1e-6)


def test_the_state_stops_at_the_list_s_end():
    values, _, present = batch(padding=3.0)
    states = made(LstmAttention)._states(tf.constant(values), tf.constant(present)).numpy()
    for row, count in zip(states, COUNTS):
        last = row[count - 1] if count else np.zeros(WIDTH)
        assert all(np.array_equal(later, last) for later in row[count:])


@pytest.mark.parametrize("layer", LAYERS)
def test_padding_changes_nothing(layer):
    built = made(layer)
    expected = run(built, *batch())
    assert np.array_equal(run(built, *batch(padding=7.0)), expected)
    np.testing.assert_allclose(run(built, *batch(padding=7.0, length=LENGTH + 3)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", LAYERS)
def test_an_empty_history_is_zero_with_finite_gradients(layer):
    built = made(layer)
    values, candidate, present = batch(padding=2.0)
    values, candidate = tf.constant(values), tf.constant(candidate)
    with tf.GradientTape() as tape:
        tape.watch([values, candidate])
        out = built((values, candidate), tf.constant(present))
        loss = tf.reduce_sum(out**2)
    assert not out[COUNTS.index(0)].numpy().any()
    gradients = tape.gradient(loss, [values, candidate, *built.trainable_variables])
    assert all(np.isfinite(g).all() and np.any(g) for g in map(np.asarray, gradients))
    assert not gradients[0].numpy()[~present].any()
    assert not gradients[1].numpy()[COUNTS.index(0)].any()
    assert gradients[1].numpy()[COUNTS.index(5)].any()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_candidate_matters(layer):
    built = made(layer)
    values, candidate, present = batch()
    one, other = run(built, values, candidate, present), run(built, values, -candidate, present)
    assert np.abs(one - other)[COUNTS.index(5)].max() > 1e-4


@pytest.mark.parametrize(("layer", "ordered"), [(TargetAttention, False), (LstmAttention, True)])
def test_order_matters_to_the_lstm_only(layer, ordered):
    built = made(layer)
    values, candidate, present = (x[:1] for x in batch())
    one, reverse = run(built, values, candidate, present), run(built, values[:, ::-1], candidate, present)
    assert np.allclose(one, reverse, rtol=1e-4, atol=1e-5) != ordered


def test_weights_of_the_target_attention_are_not_normalised():
    built = made(TargetAttention)
    values, candidate, present = (x[:1] for x in batch())
    twice = np.concatenate([values, values], axis=1), candidate, np.concatenate([present, present], axis=1)
    np.testing.assert_allclose(run(built, *twice), 2 * run(built, values, candidate, present), rtol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_seed_decides_weights_that_exist_before_the_first_call(layer):
    first, same, other = (layer(WIDTH, UNITS, seed=s).get_weights() for s in (3, 3, 4))
    # Per hidden layer kernel, bias and slopes; the scoring layer; the LSTM's two kernels and its bias.
    assert len(first) == 3 * len(UNITS) + (2 if layer is TargetAttention else 1 + 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


@pytest.mark.parametrize("layer", LAYERS)
def test_compiled_by_xla_it_gives_the_same(layer):
    built = made(layer)
    inputs = [tf.constant(x) for x in batch()]

    @tf.function(jit_compile=True)
    def value_and_gradient(values, candidate, present):
        with tf.GradientTape() as tape:
            tape.watch(values)
            out = built((values, candidate), present)
            loss = tf.reduce_sum(out**2)
        return out, tape.gradient(loss, values)

    plain = value_and_gradient.python_function(*inputs)
    for got, expected in zip(value_and_gradient(*inputs), plain):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_in_bfloat16_it_gives_about_the_same(layer):
    built = made(layer)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = layer(WIDTH, UNITS, seed=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    half.set_weights(built.get_weights())
    assert all(v.dtype == tf.float32 for v in half.trainable_variables)
    expected, got = run(built, *batch()), run(half, *batch()).astype(np.float32)
    np.testing.assert_allclose(got, expected, atol=0.03 * np.abs(expected).max())
    assert not np.array_equal(got, expected)
