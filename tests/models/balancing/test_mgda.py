"""MGDA against active-set enumeration by least squares, its closed form and the conditions of its minimum."""

import itertools

import numpy as np
import pytest

from models.balancing import MGDA


def reference(matrix):
    """The minimiser of wᵀGw on the simplex: each face's KKT system by least squares, the best one that is feasible."""
    tasks = len(matrix)
    scale = max(np.trace(matrix), 1e-300)
    best, value = None, np.inf
    for size in range(1, tasks + 1):
        for inside in map(list, itertools.combinations(range(tasks), size)):
            system = np.ones((size + 1, size + 1))
            system[:size, :size] = matrix[np.ix_(inside, inside)] / scale
            system[size, size] = 0
            w = np.zeros(tasks)
            w[inside] = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0][:size]
            if w.min() >= -1e-9 and abs(w.sum() - 1) < 1e-9 and w @ matrix @ w < value:
                best, value = w, w @ matrix @ w
    return best


def check_minimum(matrix, w, rtol=1e-6):
    """On the simplex, and g_i·d >= d·d for all i, with rounding relative to the lengths that enter each product."""
    assert (w >= 0).all()
    np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)
    norms = np.sqrt(np.diag(matrix))
    slack = matrix @ w - w @ matrix @ w
    assert (slack >= -rtol * (norms + w @ norms) * (w @ norms) - 1e-300).all(), slack


@pytest.mark.parametrize("tasks", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_finds_the_minimum_whatever_the_gradients(tasks, scale, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        matrix = rounded(g * (1.0 if kind == "of extreme lengths" else scale))
        w = weigh(MGDA(name="mgda"), np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        check_minimum(matrix, w)


@pytest.mark.parametrize("tasks", [2, 3, 4, 6])
def test_weights_are_those_of_the_best_active_set(tasks, gradients, rounded, weigh):
    for kind in ("random", "agreeing", "conflicting"):
        matrix = rounded(gradients(tasks)[kind])
        w = weigh(MGDA(name="mgda"), np.ones(tasks), matrix)[0].shared
        np.testing.assert_allclose(w, reference(matrix), atol=1e-5)


def test_two_tasks_follow_the_closed_form(weigh):
    generator = np.random.default_rng(0)
    for a, b in generator.normal(size=(50, 2, 3)) * generator.uniform(0.1, 3, (50, 2, 1)):
        first = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
        matrix = np.array([[a @ a, a @ b], [a @ b, b @ b]])
        np.testing.assert_allclose(weigh(MGDA(name="mgda"), [1, 1], matrix)[0].shared, [first, 1 - first], atol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_equal_and_zero_gradients_have_equal_weights(tasks, gradients, rounded, weigh):
    for kind in ("equal", "zero"):
        w = weigh(MGDA(name="mgda"), np.ones(tasks), rounded(gradients(tasks)[kind]))[0].shared
        np.testing.assert_allclose(w, np.full(tasks, 1 / tasks), rtol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_a_zero_gradient_takes_all_the_weight(tasks, gradients, rounded, weigh):
    w = weigh(MGDA(name="mgda"), np.ones(tasks), rounded(gradients(tasks)["one zero"]))[0].shared
    np.testing.assert_allclose(w, np.eye(tasks)[0])


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("normalization", ["l2", "loss", "loss_plus"])
def test_normalization_divides_the_gradients_first(tasks, normalization, gradients, rounded, weigh):
    losses = np.random.default_rng(tasks).uniform(0.1, 2.0, tasks).astype(np.float32).astype(np.float64)
    matrix = rounded(gradients(tasks)["of many lengths"])
    norms = np.sqrt(np.diag(matrix))
    sizes = {"l2": norms, "loss": losses, "loss_plus": losses * norms}[normalization]
    w = weigh(MGDA(name="mgda", normalization=normalization), losses, matrix)[0].shared
    np.testing.assert_allclose(w, reference(matrix / np.outer(sizes, sizes)), atol=2e-5)


@pytest.mark.parametrize("normalization", ["l2", "loss", "loss_plus"])
def test_normalization_leaves_what_it_cannot_divide_by(normalization, gradients, rounded, weigh):
    for kind in ("one zero", "zero", "random"):
        for losses in ([0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0], [np.nan, 1.0, 1.0]):
            balancer = MGDA(name="mgda", normalization=normalization)
            w = weigh(balancer, losses, rounded(gradients(3)[kind]))[0].shared.numpy()
            assert (w >= 0).all() and abs(w.sum() - 1) < 1e-6
