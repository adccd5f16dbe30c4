"""Experts: each is a dense stack of its own, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from models.trunks.base import DenseStack
from models.trunks.experts import Experts

E, WIDTH, UNITS = 3, 7, (6, 5, 4)


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def sample(rows=50, width=WIDTH, seed=0):
    return np.random.default_rng(seed).normal(0.5, 1.5, (rows, width)).astype(np.float32)


def make(units=UNITS, experts=E, seed=0, random=True, **config):
    layer = Experts(experts, DenseStack(units=units, **config), seed=seed)
    layer(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(1)
    for v in layer.weights if random else ():
        if v.dtype == tf.float32:
            v.assign(rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name else rng.normal(0.2, 0.5, v.shape))
    return layer


def expert_weights(layer, i, e):
    """Kernel, bias, scale and offset (None where there is none) of layer i of expert e."""
    units = layer.expert.units[i]
    columns = slice(e * units, (e + 1) * units)
    kernel = layer.kernels[i].numpy()
    vectors = [v[i].numpy()[columns] if v else None for v in (layer.biases, layer.scales, layer.offsets)]
    return kernel[e], *vectors


@pytest.mark.parametrize("units", [(6,), (6, 5), UNITS])
def test_forward_pass_is_that_of_separate_dense_stacks(units):
    layer = make(units, activation="tanh")
    x = sample()
    y = layer(x)
    assert y.shape == [50, E, units[-1]]
    for e in range(E):
        h = x.astype(np.float64)
        for i in range(len(units)):
            kernel, bias, _, _ = expert_weights(layer, i, e)
            h = np.tanh(h @ kernel + bias)
        np.testing.assert_allclose(y[:, e], h, rtol=1e-4, atol=1e-5)


def test_shapes_and_number_of_weights():
    layer = make()
    assert [tuple(v.shape) for v in layer.kernels] == [(3, 7, 6), (3, 6, 5), (3, 5, 4)]
    assert [tuple(v.shape) for v in layer.biases] == [(18,), (15,), (12,)]
    assert layer.count_params() == E * (7 * 6 + 6 + 6 * 5 + 5 + 5 * 4 + 4)
    assert layer.last_kernel[0] is layer.kernels[-1] and len(layer.last_kernel) == 1
    assert Experts(E, DenseStack(units=UNITS), seed=0).last_kernel == []


def test_initial_values_are_glorot_per_expert_and_differ():
    layer = Experts(4, DenseStack(units=(200, 100)), seed=0)
    layer(tf.zeros([1, 300]))
    for i, (fan_in, fan_out) in enumerate([(300, 200), (200, 100)]):
        bound = np.sqrt(6 / (fan_in + fan_out))
        kernels = [expert_weights(layer, i, e)[0] for e in range(4)]
        for kernel in kernels:
            assert kernel.shape == (fan_in, fan_out)
            # The largest of n uniform values falls short of the bound by about bound / n.
            assert 0.999 * bound < np.abs(kernel).max() <= bound
            np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
        correlation = np.corrcoef([k.ravel() for k in kernels])
        assert np.abs(correlation - np.eye(4)).max() < 5 / np.sqrt(fan_in * fan_out)
    assert all((b.numpy() == 0).all() for b in layer.biases)


def test_initial_values_repeat_with_the_seed():
    a, b, c = (make(seed=s, random=False).get_weights()[0] for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_is_per_expert_and_unit(training):
    layer = make((6, 4), normalization="batch")
    assert not layer.biases
    x = sample()
    moving = [(n.moving_mean.numpy(), n.moving_variance.numpy()) for n in layer.normalizations]
    y = layer(x, training=training)
    for e in range(E):
        h = x.astype(np.float64)
        for i, units in enumerate((6, 4)):
            columns = slice(e * units, (e + 1) * units)
            z = h @ expert_weights(layer, i, e)[0]
            mean, variance = (z.mean(0), z.var(0)) if training else (v[columns] for v in moving[i])
            gamma, beta = (v.numpy()[columns] for v in (layer.normalizations[i].gamma, layer.normalizations[i].beta))
            h = np.maximum((z - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)
        np.testing.assert_allclose(y[:, e], h, rtol=1e-3, atol=1e-4)


def test_layer_normalisation_is_over_the_units_of_one_expert_with_its_own_scale():
    layer = make((6, 4), normalization="layer")
    x = sample()
    y = layer(x)
    for e in range(E):
        h = x.astype(np.float64)
        for i in range(2):
            kernel, bias, scale, offset = expert_weights(layer, i, e)
            z = h @ kernel + bias
            z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-3)
            h = np.maximum(z * scale + offset, 0)
        np.testing.assert_allclose(y[:, e], h, rtol=1e-3, atol=1e-4)


def test_an_expert_s_output_reaches_no_other_expert_s_weights():
    layer = make()
    x = tf.constant(sample())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x)[:, 1])
    for gradient in tape.gradient(loss, layer.kernels):
        parts = np.split(gradient.numpy(), E)
        assert [bool((p != 0).any()) for p in parts] == [False, True, False]


def test_dropout_is_drawn_per_expert_and_unit():
    layer = make((40,), dropout=0.5)
    dropped = layer(tf.ones([200, WIDTH]), training=True).numpy() == 0
    alive = (layer(tf.ones([1, WIDTH])).numpy() > 0)[0]
    share = dropped[:, alive].mean()
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / (200 * alive.sum()))
    both = alive[0] & alive[1]
    assert not np.array_equal(dropped[:, 0][:, both], dropped[:, 1][:, both])


def test_weights_and_the_dropouts_position_are_in_the_checkpoint(tmp_path):
    x = sample()
    layer, other = (
        make(dropout=0.2, normalization="layer"),
        make(seed=9, random=False, dropout=0.2, normalization="layer"),
    )
    layer(x, training=True)
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "c"))
    tf.train.Checkpoint(layer=other).read(path).assert_consumed()
    assert np.array_equal(layer(x), other(x))
    assert [int(d.position) for d in other.dropouts] == [1, 1, 1]


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(bfloat16, normalization):
    layer = make(random=False, normalization=normalization, dropout=0.1)
    for training in (False, True):
        y = layer(sample(), training=training)
        assert y.dtype == tf.bfloat16 and np.isfinite(tf.cast(y, tf.float32)).all()
    assert {v.dtype for v in layer.trainable_variables} == {tf.float32}


def test_no_expert_is_refused():
    with pytest.raises(ValueError, match="experts: expected at least 1, got 0"):
        Experts(0, DenseStack(units=(3,)), seed=0)
