"""The ratio of losses where float32 has no quotient."""

import numpy as np
import tensorflow as tf

from models.balancing.ratio import loss_ratio


def test_is_the_quotient():
    now, before = np.random.default_rng(0).uniform(0.01, 10.0, [2, 50])
    found = loss_ratio(tf.constant(now, tf.float32), tf.constant(before, tf.float32))
    np.testing.assert_allclose(found, now / before, rtol=1e-6)


def test_is_1_over_a_loss_of_0_and_bounded_elsewhere():
    now, before = [0.0, 0.5, 0.0, 1e15, 1e-10], [0.0, 0.0, 0.5, 1e-25, 1e15]
    np.testing.assert_allclose(loss_ratio(tf.constant(now), tf.constant(before)), [1.0, 1.0, 0.0, 1e15, 1e-25])
