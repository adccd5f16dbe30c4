"""The shared algebra: projection, faces, scaling, and the shortest convex combination."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize

from models.balancing.simplex import MOST_TASKS, check_task_count, faces, min_norm, project_to_simplex, scaled
from models.balancing.simplex import solve_on_faces as solve


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_projection_satisfies_the_conditions_of_the_nearest_point(size, total, spread):
    for point in np.random.default_rng(size).normal(0, spread, (20, size)):
        w = project_to_simplex(tf.constant(point), total).numpy()
        assert (w >= 0).all()
        np.testing.assert_allclose(w.sum(), total, atol=1e-12 * spread)
        # w = max(point - shift, 0): one shift for all that are positive, and none above it elsewhere.
        shift = (point - w)[w > 0]
        if len(shift):
            assert np.ptp(shift) < 1e-12 * spread
            assert (point[w == 0] <= shift[0] + 1e-12 * spread).all()


def test_a_point_on_the_simplex_is_its_own_projection():
    np.testing.assert_allclose(project_to_simplex(tf.constant([0.2, 0.5, 0.3], tf.float64), 1.0), [0.2, 0.5, 0.3])


def test_ties_project_to_equal_weights():
    np.testing.assert_allclose(project_to_simplex(tf.constant([7.0, 7.0, -1.0], tf.float64), 1.0), [0.5, 0.5, 0.0])


def test_faces_are_all_nonempty_sets_of_corners():
    assert sorted(map(tuple, faces(2))) == [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    assert len({tuple(f) for f in faces(6)}) == 63


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_lengths_and_cosines_make_the_gram_matrix(tasks, gradients):
    for kind in ("random", "of many lengths", "of extreme lengths"):
        g = gradients(tasks)[kind]
        norms = np.linalg.norm(g, axis=1)
        found = scaled(tf.constant(g @ g.T), 1e-10)
        np.testing.assert_allclose(found.lengths, norms / norms.max(), rtol=1e-12)
        np.testing.assert_allclose(found.cosines, g @ g.T / np.outer(norms, norms), atol=1e-9)
        np.testing.assert_allclose(found.gram, g @ g.T / norms.max() ** 2, rtol=1e-6)


def test_the_floor_makes_dependent_gradients_definite(gradients):
    for kind in ("equal", "parallel", "opposite", "rank deficient", "one zero", "zero"):
        g = gradients(5)[kind]
        found = scaled(tf.constant(g @ g.T), 1e-6)
        assert np.linalg.eigvalsh(found.cosines).min() > 0.9e-6
        assert np.array_equal(found.zero, ~g.any(axis=1))


def test_systems_on_faces_are_those_of_the_submatrices(gradients):
    g = gradients(4)["of many lengths"]
    found, right = scaled(tf.constant(g @ g.T), 1e-12), np.random.default_rng(0).normal(size=(4, 2))
    for corners, x in zip(faces(4), solve(found, faces(4), tf.constant(right)).numpy()):
        inside = corners > 0
        expected = np.linalg.solve(found.gram.numpy()[np.ix_(inside, inside)], right[inside])
        np.testing.assert_allclose(x[inside], expected, rtol=1e-6)
        assert (x[~inside] == 0).all()


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_the_shortest_combination_is_that_of_slsqp(tasks, gradients):
    for kind in ("random", "agreeing", "conflicting"):
        g = gradients(tasks)[kind]
        matrix = g @ g.T
        expected = minimize(
            lambda w, m=matrix: w @ m @ w / 2,
            np.full(tasks, 1 / tasks),
            jac=lambda w, m=matrix: m @ w,
            bounds=[(0, 1)] * tasks,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-15, "maxiter": 500},
        ).x
        np.testing.assert_allclose(min_norm(tf.constant(matrix)), expected, atol=1e-5)


def test_a_matrix_that_is_not_finite_gives_a_point_of_the_simplex():
    for bad in (np.nan, np.inf):
        w = min_norm(tf.constant([[1.0, bad, 0.0], [bad, bad, 0.0], [0.0, 0.0, 2.0]])).numpy()
        assert (w >= 0).all() and abs(w.sum() - 1) < 1e-9


def test_too_many_tasks_are_refused():
    with pytest.raises(ValueError, match=f"balancer mgda: expected at most {MOST_TASKS} tasks, got {MOST_TASKS + 1}"):
        check_task_count("mgda", tuple(map(str, range(MOST_TASKS + 1))))
