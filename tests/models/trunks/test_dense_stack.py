"""The dense stack: its layers against NumPy, its normalisation, and dropout that a checkpoint can resume."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pydantic import ValidationError

from models.trunks.base import DenseStack
from models.trunks.dropout import Dropout

EPSILON = 1e-3  # of both of Keras' normalisations


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def sample(rows=64, width=7, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, (rows, width)).astype(np.float32)


def randomise(layer, seed=1):
    """Gives every weight, those of the normalisation too, a value of its own."""
    rng = np.random.default_rng(seed)
    for v in layer.weights:
        if v.dtype == tf.float32:
            v.assign(rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name else rng.normal(0.3, 0.5, v.shape))


def weights(layer):
    """Weights by their place, such as 'dense_0/kernel', in float64."""
    return {"/".join(v.name.split(":")[0].split("/")[-2:]): v.numpy().astype(np.float64) for v in layer.weights}


def normalised(z, mean, variance, gamma, beta):
    return (z - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def test_forward_pass_against_numpy():
    stack = DenseStack(units=(5, 3), activation="tanh").build("stack", seed=0)
    x = sample()
    stack(x)
    randomise(stack)
    w = weights(stack)
    h = np.tanh(x @ w["dense_0/kernel"] + w["dense_0/bias"])
    expected = np.tanh(h @ w["dense_1/kernel"] + w["dense_1/bias"])
    np.testing.assert_allclose(stack(x), expected, rtol=1e-4, atol=1e-5)
    assert [tuple(v.shape) for v in stack.weights] == [(7, 5), (5,), (5, 3), (3,)]


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_stands_before_the_activation(training):
    stack = DenseStack(units=(5,), normalization="batch").build("stack", seed=0)
    x = sample()
    stack(x)
    randomise(stack)
    w = weights(stack)
    assert set(w) == {"dense_0/kernel"} | {
        f"normalization_0/{n}" for n in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    z = x @ w["dense_0/kernel"]
    mean, variance = z.mean(0), z.var(0)
    if not training:
        mean, variance = w["normalization_0/moving_mean"], w["normalization_0/moving_variance"]
    expected = np.maximum(normalised(z, mean, variance, w["normalization_0/gamma"], w["normalization_0/beta"]), 0)
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(stack(x, training=training), expected, rtol=1e-3, atol=1e-4)


def test_batch_normalisation_keeps_moving_statistics():
    stack = DenseStack(units=(5,), normalization="batch").build("stack", seed=0)
    x = sample()
    stack(x)
    tf.function(lambda: stack(x, training=True))()
    w = weights(stack)
    z = x @ w["dense_0/kernel"]
    np.testing.assert_allclose(w["normalization_0/moving_mean"], 0.01 * z.mean(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(w["normalization_0/moving_variance"], 0.99 + 0.01 * z.var(0), rtol=1e-3)


def test_layer_normalisation_stands_before_the_activation():
    stack = DenseStack(units=(5,), normalization="layer").build("stack", seed=0)
    x = sample()
    stack(x)
    randomise(stack)
    w = weights(stack)
    z = x @ w["dense_0/kernel"] + w["dense_0/bias"]
    mean, variance = z.mean(1, keepdims=True), z.var(1, keepdims=True)
    expected = np.maximum(normalised(z, mean, variance, w["normalization_0/gamma"], w["normalization_0/beta"]), 0)
    np.testing.assert_allclose(stack(x), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stack(x, training=True), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_dropout_drops_its_share_and_scales_the_rest(rate, dtype):
    n = 200_000
    layer = Dropout(rate, seed=3, dtype=dtype)
    y = layer(tf.ones([n // 100, 100]), training=True)
    assert y.dtype == layer.compute_dtype
    y = tf.cast(y, tf.float32).numpy()
    kept = float(tf.constant(1.0, layer.compute_dtype) / tf.constant(1 - rate, layer.compute_dtype))
    assert set(np.unique(y)) == {0.0, np.float32(kept)}
    # Five standard deviations of a binomial share.
    assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    assert abs(kept * (1 - rate) - 1) < (1e-6 if dtype == "float32" else 2**-8)


def test_dropout_leaves_inference_alone():
    layer = Dropout(0.5, seed=3)
    x = sample()
    assert np.array_equal(layer(x), x)
    assert int(layer.position) == 0


def test_dropout_masks_differ_between_calls_and_layers_and_repeat_with_the_seed():
    x = tf.ones([40, 40])
    layer, same, other = (Dropout(0.5, seed=s) for s in (3, 3, 4))
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert int(layer.position) == 2
    assert not np.array_equal(first, second)
    assert np.array_equal(same(x, training=True), first)
    assert not np.array_equal(other(x, training=True), first)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses_a_rate_that_is_no_share(rate):
    with pytest.raises(ValueError, match=rf"rate: expected a number in \[0, 1\), got {rate}"):
        Dropout(rate, seed=0)


def test_gradient_passes_through_what_was_kept():
    layer = Dropout(0.25, seed=3)
    x = tf.constant(sample())
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), np.where(y.numpy() != 0, 1 / 0.75, 0), rtol=1e-6)


def test_training_with_dropout_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    x = tf.constant(sample())

    def trained(stack, steps):
        optimizer = keras.optimizers.legacy.SGD(0.1)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(stack(x, training=True) - 1.0))
            optimizer.apply_gradients(zip(tape.gradient(loss, stack.trainable_variables), stack.trainable_variables))

        stack(x)
        for _ in range(steps):
            step()
        return stack

    config = DenseStack(units=(6, 4), dropout=0.3)
    whole = trained(config.build("stack", seed=5), 6)
    half = trained(config.build("stack", seed=5), 3)
    path = tf.train.Checkpoint(stack=half).write(str(tmp_path / "c"))
    resumed = config.build("stack", seed=5)
    resumed(x)
    tf.train.Checkpoint(stack=resumed).read(path).assert_consumed()
    trained(resumed, 3)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), resumed.get_weights()))

    forgetful = config.build("stack", seed=5)
    forgetful(x)
    for a, b in zip(forgetful.trainable_variables, half.trainable_variables):
        a.assign(b)
    trained(forgetful, 3)
    assert not np.array_equal(whole.get_weights()[0], forgetful.get_weights()[0])


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(bfloat16, normalization):
    stack = DenseStack(units=(5, 3), normalization=normalization, dropout=0.1).build("stack", seed=0)
    x = sample()
    for training in (False, True):
        y = stack(x, training=training)
        assert y.dtype == tf.bfloat16 and np.isfinite(tf.cast(y, tf.float32)).all()
    assert {v.dtype for v in stack.trainable_variables} == {tf.float32}


def test_unknown_normalisation_is_refused():
    with pytest.raises(ValidationError, match="'none', 'batch' or 'layer'"):
        DenseStack(units=(5,), normalization="group")
