"""Cross layers and inner products against NumPy."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pydantic import TypeAdapter, ValidationError

from models.interactions import AnyInteraction, CrossConfig, DotConfig
from models.presets import ModelConfig

# Three embeddings of width 2, one of width 3, two of width 1, and two numbers behind them.
LAYOUT = ((0, 2), (2, 2), (4, 2), (6, 3), (9, 1), (10, 1))
WIDTH = 13


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("projection_dim", [None, 3])
@pytest.mark.parametrize("layers", [1, 3])
def test_cross_is_the_paper_s_recurrence(x, layers, projection_dim):
    layer = CrossConfig(name="cross", layers=layers, projection_dim=projection_dim).build(LAYOUT, seed=0)
    layer(x)
    rng = np.random.default_rng(1)
    for v in layer.trainable_variables:
        v.assign(rng.normal(scale=0.3, size=v.shape))
    weights = iter([v.numpy().astype(float) for v in layer.trainable_variables])
    expected = x0 = x.astype(float)
    for _ in range(layers):
        w = next(weights) if projection_dim is None else next(weights) @ next(weights)
        expected = x0 * (expected @ w + next(weights)) + expected
    assert next(weights, None) is None
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("projection_dim", [None, 3])
def test_seed_decides_the_cross_layers_and_no_two_matrices_share_numbers(x, projection_dim):
    config = CrossConfig(name="cross", layers=2, projection_dim=projection_dim)
    built = [config.build(LAYOUT, seed=s) for s in (5, 5, 6)]
    first, same, other = ([v.numpy() for v in layer.trainable_variables] for layer in built if layer(x) is not None)
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))
    kernels = [v.ravel() for v in first if v.ndim == 2]
    assert len(kernels) == (2 if projection_dim is None else 4)
    correlations = np.corrcoef(kernels) - np.eye(len(kernels))
    assert np.abs(correlations).max() < 0.6


def test_weights_made_inside_a_compiled_function_are_those_made_outside(x):
    config = CrossConfig(name="cross", projection_dim=3)
    inside, outside = (config.build(LAYOUT, seed=0) for _ in range(2))
    got = tf.function(inside)(x)
    np.testing.assert_allclose(got, outside(x), rtol=1e-5, atol=1e-6)


def test_dot_appends_the_products_of_pairs_width_by_width(x):
    got = DotConfig(name="dot").build(LAYOUT, seed=0)(x).numpy()
    e = [x[:, o : o + w] for o, w in LAYOUT]
    pairs = [(1, 0), (2, 0), (2, 1), (5, 4)]
    expected = [x] + [(e[i] * e[j]).sum(axis=1, keepdims=True) for i, j in pairs]
    np.testing.assert_allclose(got, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_dot_needs_two_embeddings_of_one_width():
    with pytest.raises(ValueError, match="at least two embedded features of the same dimension.*2, 3"):
        DotConfig(name="dot").build(((0, 2), (2, 3)), seed=0)


@pytest.mark.parametrize(
    "config",
    [CrossConfig(name="cross"), CrossConfig(name="cross", projection_dim=3), DotConfig(name="dot")],
    ids=["cross", "cross_projected", "dot"],
)
def test_compiled_by_xla_with_a_batch_of_any_size(x, config):
    layer = config.build(LAYOUT, seed=0)
    expected = layer(x).numpy()
    signature = [tf.TensorSpec([None, WIDTH], tf.float32)]

    @tf.function(jit_compile=True, input_signature=signature)
    def value_and_gradient(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            out = layer(inputs)
        return out, tape.gradient(out, inputs)

    assert value_and_gradient.get_concrete_function().structured_outputs[0].shape[1] == expected.shape[1]
    out, gradient = value_and_gradient(x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, value_and_gradient.python_function(tf.constant(x))[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [CrossConfig(name="cross", projection_dim=3), DotConfig(name="dot")])
def test_in_bfloat16_it_gives_about_the_same(x, config):
    expected = config.build(LAYOUT, seed=0)(x).numpy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = config.build(LAYOUT, seed=0)
        got = layer(x)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert got.dtype == tf.bfloat16 and all(v.dtype == tf.float32 for v in layer.trainable_variables)
    np.testing.assert_allclose(tf.cast(got, tf.float32), expected, atol=0.02 * np.abs(expected).max())


def test_the_name_tells_them_apart():
    read = TypeAdapter(AnyInteraction).validate_json
    assert read('{"name": "cross", "layers": 3}') == CrossConfig(name="cross", layers=3)
    assert read('{"name": "dot"}') == DotConfig(name="dot")
    for wrong in (
        '{"name": "product"}',
        '{"layers": 3}',
        '{"name": "dot", "layers": 3}',
        '{"name": "cross", "layers": 0}',
    ):
        with pytest.raises(ValidationError):
            read(wrong)


def test_a_model_has_an_interaction_only_if_it_says_so():
    assert ModelConfig(preset="shared_bottom").interaction is None
    model = ModelConfig.from_json('{"preset": "shared_bottom", "interaction": {"name": "dot"}}')
    assert model.interaction == DotConfig(name="dot")
    assert ModelConfig.from_json(model.canonical_json()) == model


def test_reading_a_configuration_does_not_import_the_library():
    code = (
        "import sys; from models.runtime import prepare_process; prepare_process(); import models.interactions; "
        "sys.exit('tensorflow_recommenders' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
