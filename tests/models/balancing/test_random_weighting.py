"""Random weighting: its distribution, and that it is the seed's alone."""

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import RandomWeighting


def draw(seed, tasks, losses=None):
    losses = tf.ones([tasks]) if losses is None else tf.constant(losses, tf.float32)
    weights, _ = RandomWeighting(name="random_weighting").weigh(
        losses, tf.zeros([tasks, tasks]), {}, step=tf.constant(0, tf.int64), seed=seed
    )
    return weights.own


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_is_distributed_as_k_times_the_softmax_of_normals(tasks):
    draws = 20_000
    seeds = tf.stack([tf.zeros([draws], tf.int32), tf.range(draws)], axis=1)
    found = tf.vectorized_map(lambda seed: draw(seed, tasks), seeds).numpy()
    normal = np.random.default_rng(0).normal(size=[draws, tasks])
    expected = tasks * np.exp(normal) / np.exp(normal).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.sum(axis=1), tasks, rtol=1e-5)
    # Standard errors of a mean and of a standard deviation near 1 over so many draws are below 0.01.
    np.testing.assert_allclose(found.mean(axis=0), 1.0, atol=0.05)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), atol=0.05)
    np.testing.assert_allclose(np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(expected, [0.1, 0.5, 0.9]), atol=0.05)


def test_is_new_at_every_seed_and_does_not_read_the_losses():
    first, again, other = draw([3, 5], 4), draw([3, 5], 4, [9.0, 0.0, 1.0, 4.0]), draw([3, 6], 4)
    assert np.array_equal(first, again) and not np.allclose(first, other)
