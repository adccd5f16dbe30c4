"""On the two-dimensional problem of the CAGrad paper the plain sum gets stuck, and gradient surgery does not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from tests.benchmarks.toy_problem import SETTINGS, balancer_named, descend, distance_to_front, losses_at, pareto_front

HARD = SETTINGS["cagrad"]._replace(starts=((-8.5, 7.5), (9.0, 9.0)), steps=70_000)
"""The two published starts above the valleys; Adam at the published rate."""


@cache
def paths(name: str) -> np.ndarray:
    return descend(balancer_named(name), HARD)


def losses_by_hand(x: float, y: float) -> list[float]:
    v = [
        np.log(max(abs(0.5 * (-x - 7) - np.tanh(-y)), 5e-6)) + 6,
        np.log(max(abs(0.5 * (-x + 3) + np.tanh(-y) + 2), 5e-6)) + 6,
    ]
    q = [((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20, ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20]
    return [max(np.tanh(y * 0.5), 0) * a + max(np.tanh(-y * 0.5), 0) * b for a, b in zip(v, q)]


def test_losses_are_those_of_the_paper():
    points = np.random.default_rng(0).uniform(-10, 10, (50, 2))
    expected = np.array([losses_by_hand(*p) for p in points])
    np.testing.assert_allclose(losses_at(tf.constant(points), 1.0), expected, rtol=1e-12)
    np.testing.assert_allclose(losses_at(tf.constant(points), 0.1), expected * [0.1, 1.0], rtol=1e-12)


def test_no_point_of_the_plane_is_better_than_the_front_in_both_losses():
    front = losses_at(tf.constant(pareto_front()[::100]), 1.0).numpy()
    axis = np.linspace(-10, 10, 401)
    plane = losses_at(tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)), 1.0).numpy()
    for point in front:
        assert not np.any(np.all(plane < point - 1e-6, axis=1))


def test_the_plain_sum_is_stuck_where_the_front_is_better_for_both_tasks():
    middle = losses_at(tf.constant(pareto_front()[700]), 1.0).numpy()
    for path in paths("static"):
        end, before = path[-1], path[2 * len(path) // 3]
        assert distance_to_front(end) > 10
        assert np.all(losses_at(tf.constant(end), 1.0).numpy() > middle + 10)
        # In the last third Adam could have gone 20.
        assert np.linalg.norm(end - before) < 0.5


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "cagrad", "nash_mtl"])
def test_surgery_reaches_the_front(name):
    for path in paths(name):
        assert distance_to_front(path[-1]) < 0.1


def test_cagrad_ends_at_the_minimum_of_the_mean_and_mgda_does_not():
    middle = pareto_front()[700]
    np.testing.assert_allclose(paths("cagrad")[:, -1], [middle, middle], atol=0.1)
    assert np.all(np.abs(paths("mgda")[:, -1, 0]) > 2)
