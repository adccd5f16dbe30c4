"""Schedules of the learning rate."""

import numpy as np
import pytest

from models.optimizers import DenseOptimizer, EmbeddingOptimizer


def rates(config, steps=100):
    rate = config.build(steps)._get_hyper("learning_rate")
    return np.array([float(rate(t)) if callable(rate) else float(rate) for t in range(steps + 1)])


@pytest.mark.parametrize("kind", [DenseOptimizer, EmbeddingOptimizer])
def test_without_a_schedule_the_rate_is_constant(kind):
    assert isinstance(kind(learning_rate=0.5).rate(100), float)


def test_cosine_falls_from_the_rate_to_0():
    got = rates(DenseOptimizer(learning_rate=0.5, schedule="cosine"))
    np.testing.assert_allclose(got, 0.25 * (1 + np.cos(np.pi * np.arange(101) / 100)), atol=1e-7)


def test_warm_up_grows_linearly_to_the_rate():
    got = rates(EmbeddingOptimizer(learning_rate=0.5, warm_up=0.2))
    np.testing.assert_allclose(got[:20], 0.5 * np.arange(20) / 20, atol=1e-7)
    np.testing.assert_allclose(got[20:], 0.5)


def test_warm_up_and_cosine_meet_at_the_peak():
    got = rates(DenseOptimizer(learning_rate=0.5, warm_up=0.2, schedule="cosine"))
    assert got.argmax() == 20 and got[20] == 0.5 and got[-1] == pytest.approx(0, abs=1e-7)
    assert (np.diff(got[:21]) > 0).all() and (np.diff(got[20:]) < 0).all()


def test_after_the_last_step_the_rate_stays_at_0():
    rate = DenseOptimizer(schedule="cosine").rate(10)
    assert float(rate(15)) == pytest.approx(0, abs=1e-9)
