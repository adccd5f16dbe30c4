"""What holds for every trunk; what is a trunk's own stands in the file of its name."""

import typing

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pydantic import TypeAdapter

from models.trunks import AnyTrunk

CONFIGS = {
    typing.get_args(config.model_fields["name"].annotation)[0]: config
    for config in typing.get_args(typing.get_args(AnyTrunk)[0])
}
TASKS, WIDTH = 3, 7

every_trunk = pytest.mark.parametrize("name", CONFIGS)


def sample(rows=50):
    return tf.constant(np.random.default_rng(0).normal(size=(rows, WIDTH)), tf.float32)


def make(name, seed=0):
    """A trunk with the defaults, whose weights are off their first values, that may be equal for all tasks."""
    trunk = CONFIGS[name](name=name).build(TASKS, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(seed)
    for v in trunk.trainable_variables:
        v.assign_add(rng.normal(size=v.shape, scale=0.05))
    return trunk


@every_trunk
def test_is_read_by_its_name(name):
    assert TypeAdapter(AnyTrunk).validate_json(f'{{"name": "{name}"}}') == CONFIGS[name](name=name)


@every_trunk
def test_the_two_stages_are_the_whole(name):
    trunk, x = make(name), sample()
    shared = trunk.shared(x, False)
    whole = trunk(x)
    assert len(whole) == TASKS and {len(r) for r in whole} == {50}
    for a, b in zip(trunk.split(shared, x, False), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(shared)
        representations = trunk.split(shared, x, False)
    assert all(tape.gradient(r, shared) is not None for r in representations)


@every_trunk
def test_the_same_in_a_graph(name):
    trunk, x = make(name), sample()
    for a, b in zip(tf.function(lambda: trunk(x, training=True))(), trunk(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@every_trunk
def test_weights_are_in_the_checkpoint(name, tmp_path):
    trunk, other, x = make(name), make(name, seed=7), sample()
    path = tf.train.Checkpoint(trunk=trunk).write(str(tmp_path / "c"))
    assert np.allclose(trunk(x)[-1], other(x)[-1]) == (not trunk.weights)
    tf.train.Checkpoint(trunk=other).read(path).assert_consumed()
    for a, b in zip(trunk(x), other(x), strict=True):
        assert np.array_equal(a, b)


@every_trunk
def test_bfloat16_computes_in_bfloat16_and_keeps_weights_gates_and_penalty_in_float32(name):
    x = sample()
    expected = make(name)(x)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        trunk = make(name)
        low = trunk(x)
        stages = trunk.split(trunk.shared(x, False), x, False)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {v.dtype for v in trunk.weights} <= {tf.float32}
    assert {g.dtype for g in trunk.observed.gates.values()} <= {tf.float32}
    assert trunk.penalty() is None or trunk.penalty().dtype == tf.float32
    for a, b, e in zip(low, stages, expected, strict=True):
        assert a.dtype == tf.bfloat16 and b.dtype in ((tf.bfloat16,) if trunk.weights else (tf.bfloat16, tf.float32))
        for r in (a, b):
            assert np.abs(tf.cast(r, tf.float32) - e).max() < 0.05 * np.abs(e).max()
