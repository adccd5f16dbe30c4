"""Adam's step against Algorithm 1 of its paper."""

import numpy as np
import pytest
import tensorflow as tf

from models.balancing.adam import adam_step


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_follows_the_papers_algorithm(scale):
    gradients = np.random.default_rng(1).normal(size=(30, 4)) * scale
    m, v = np.zeros(4), np.zeros(4)
    first = second = tf.zeros([4])
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        found, first, second = adam_step(tf.constant(g, tf.float32), first, second, tf.constant(float(t)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_first_step_is_the_sign_of_the_gradient():
    found, _, _ = adam_step(tf.constant([3.0, -0.2, 0.0]), tf.zeros([3]), tf.zeros([3]), tf.constant(1.0))
    np.testing.assert_allclose(found, [1.0, -1.0, 0.0], rtol=1e-4)
