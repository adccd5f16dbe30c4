"""Soft sharing against NumPy, its penalty, and which loss reaches which stack."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.trunks import AnyTrunk, DenseStack, SoftSharingConfig

TASKS, WIDTH, UNITS = 3, 7, (6, 5)


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(tasks=TASKS, seed=0, apart=True, **options):
    trunk = SoftSharingConfig(name="soft_sharing", bottom=DenseStack(units=UNITS), **options).build(tasks, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(seed)
    for v in trunk.trainable_variables if apart else []:
        v.assign_add(rng.normal(size=v.shape))
    return trunk


def reference(stack, x):
    weights = [v.numpy().astype(np.float64) for v in stack.trainable_variables]
    for kernel, bias in zip(weights[::2], weights[1::2]):
        x = np.maximum(x @ kernel + bias, 0)
    return x


def test_each_task_has_a_stack_of_its_own():
    trunk, x = make(), sample()
    representations = trunk(x)
    for stack, r in zip(trunk.bottoms, representations, strict=True):
        np.testing.assert_allclose(r, reference(stack, x), rtol=1e-4, atol=1e-4)
    assert not np.allclose(representations[0], representations[1])
    assert trunk.count_params() == TASKS * (WIDTH * 6 + 6 + 6 * 5 + 5)


@pytest.mark.parametrize("tasks", [2, 3])
def test_penalty_is_the_squared_distance_of_every_pair(tasks):
    trunk = make(tasks, strength=0.3)
    flat = [np.concatenate([v.numpy().ravel() for v in stack.trainable_variables]) for stack in trunk.bottoms]
    expected = 0.3 * sum(((a - b).astype(np.float64) ** 2).sum() for a, b in itertools.combinations(flat, 2))
    assert expected > 1
    np.testing.assert_allclose(trunk.penalty(), expected, rtol=1e-5)


def test_penalty_pulls_the_stacks_together():
    trunk = make(2, strength=0.5)
    a, b = (stack.trainable_variables[0] for stack in trunk.bottoms)
    with tf.GradientTape() as tape:
        penalty = trunk.penalty()
    to_a, to_b = tape.gradient(penalty, [a, b])
    np.testing.assert_allclose(to_a, a - b, rtol=1e-5)
    np.testing.assert_allclose(to_b, b - a, rtol=1e-5)


def test_the_stacks_start_together_and_strength_0_is_no_penalty():
    trunk = make(apart=False)
    assert float(trunk.penalty()) == 0.0
    first, *others = trunk(sample())
    assert all(np.array_equal(first, other) for other in others) and np.std(first) > 0
    assert make(strength=0.0).penalty() is None


def test_a_loss_reaches_its_own_stack_only():
    trunk, x = make(), tf.constant(sample())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        representations = trunk(x)
    for k, r in enumerate(representations):
        for j, stack in enumerate(trunk.bottoms):
            gradients = tape.gradient(r, stack.trainable_variables)
            assert [g is not None for g in gradients] == [j == k] * len(gradients)
        assert tape.gradient(r, x) is not None
    assert trunk.last_shared_layer == [] and trunk.faster == []


def test_configuration_is_read_by_its_name():
    read = TypeAdapter(AnyTrunk).validate_json
    config = read('{"name": "soft_sharing", "bottom": {"units": [3]}, "strength": 0.1}')
    assert config == SoftSharingConfig(name="soft_sharing", bottom=DenseStack(units=(3,)), strength=0.1)
    with pytest.raises(ValueError, match="strength"):
        read('{"name": "soft_sharing", "strength": -1}')


def test_what_every_task_reads_is_the_input():
    x = tf.constant(sample())
    assert make().shared(x, False) is x
