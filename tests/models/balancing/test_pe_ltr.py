"""PE-LTR: the paper's two steps, the exact minimum, and the floors."""

import numpy as np
import pytest
from scipy.optimize import minimize

from models.balancing import PELTR, Run

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


def quadratic(matrix, linear, total):
    """argmin wᵀGw / 2 + linear·w over w >= 0, Σ w = total, by SLSQP."""
    tasks = len(linear)
    return minimize(
        lambda w: w @ matrix @ w / 2 + linear @ w,
        np.full(tasks, total / tasks),
        jac=lambda w: matrix @ w + linear,
        bounds=[(0, None)] * tasks,
        constraints={"type": "eq", "fun": lambda w: w.sum() - total},
        options={"ftol": 1e-16, "maxiter": 500},
    ).x


def pecsolver(matrix, floors):
    """The paper's two steps, as printed: (MᵀM)⁻¹ M z, then the nearest feasible point."""
    tasks = len(floors)
    m = np.block([[matrix / np.trace(matrix), np.ones((tasks, 1))], [np.ones((1, tasks)), np.zeros((1, 1))]])
    z = np.concatenate([-matrix @ floors / np.trace(matrix), [1 - floors.sum()]])
    relaxed = (np.linalg.inv(m.T @ m) @ m @ z)[:tasks]
    return floors + quadratic(np.eye(tasks), -relaxed, 1 - floors.sum())


def some_floors(tasks, total):
    share = np.random.default_rng(tasks).uniform(0, 1, tasks)
    return total * share / share.sum() * 0.999


def balancer(floors, solver):
    return PELTR(name="pe_ltr", floors=dict(zip(NAMES, floors.tolist())), solver=solver)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("total", [0.0, 0.4, 0.9])
def test_pecsolver_is_the_papers_two_steps(tasks, total, gradients, rounded, weigh):
    floors = some_floors(tasks, total)
    for kind in ("random", "agreeing", "conflicting"):
        matrix = rounded(gradients(tasks)[kind])
        w = weigh(balancer(floors, "pecsolver"), np.ones(tasks), matrix)[0].shared
        np.testing.assert_allclose(w, pecsolver(matrix, floors), atol=2e-5)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("total", [0.0, 0.4, 0.9])
def test_exact_is_the_constrained_minimum(tasks, total, gradients, rounded, weigh):
    floors = some_floors(tasks, total)
    for kind in ("random", "agreeing", "conflicting"):
        matrix = rounded(gradients(tasks)[kind])
        w = weigh(balancer(floors, "exact"), np.ones(tasks), matrix)[0].shared
        np.testing.assert_allclose(w, floors + quadratic(matrix, matrix @ floors, 1 - floors.sum()), atol=1e-4)


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("total", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_exact_satisfies_the_conditions_of_the_minimum(tasks, total, scale, gradients, rounded, weigh):
    floors = some_floors(tasks, total)
    for kind, g in gradients(tasks).items():
        matrix = rounded(g * (1.0 if kind == "of extreme lengths" else scale))
        w = weigh(balancer(floors, "exact"), np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        norms = np.sqrt(np.diag(matrix))
        # Moving weight from what is above its floor to any other task does not shorten the update.
        slopes, size = matrix @ w, w @ norms
        for k in np.flatnonzero(w > floors + 1e-6):
            rounding = 1e-5 * (norms + norms[k]) * size + 1e-300
            assert (w[k] - floors[k]) * (slopes[k] - slopes - rounding).max() <= 1e-6 * size**2, (kind, w, floors)


@pytest.mark.parametrize("solver", ["pecsolver", "exact"])
@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_weights_keep_their_floors_and_sum_to_1(solver, tasks, scale, gradients, rounded, weigh):
    for total in (0.0, 0.5, 1.0):
        floors = some_floors(tasks, total)
        for kind, g in gradients(tasks).items():
            matrix = rounded(g * (1.0 if kind == "of extreme lengths" else scale))
            w = weigh(balancer(floors, solver), np.ones(tasks), matrix)[0].shared.numpy()
            assert (w >= floors - 1e-6).all(), kind
            np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("solver", ["pecsolver", "exact"])
def test_floors_of_1_in_sum_are_the_weights(solver, gradients, rounded, weigh):
    floors = np.array([0.5, 0.25, 0.25])
    for g in gradients(3).values():
        np.testing.assert_allclose(weigh(balancer(floors, solver), np.ones(3), rounded(g))[0].shared, floors)


@pytest.mark.parametrize("total", [0.0, 0.5])
def test_the_two_solvers_agree_for_two_tasks(total, weigh):
    floors = some_floors(2, total)
    generator = np.random.default_rng(1)
    for g in generator.normal(size=(50, 2, 3)) * generator.uniform(0.1, 3, (50, 2, 1)):
        pair = [weigh(balancer(floors, s), [1, 1], g @ g.T)[0].shared for s in ("pecsolver", "exact")]
        np.testing.assert_allclose(*pair, atol=1e-5)


def test_the_two_solvers_differ_for_three_tasks(weigh):
    matrix = np.array([[1.0, 0.9, 1.5], [0.9, 1.0, 1.2], [1.5, 1.2, 4.0]])
    assert np.linalg.eigvalsh(matrix).min() > 0
    found = [weigh(balancer(np.zeros(3), s), np.ones(3), matrix)[0].shared.numpy() for s in ("pecsolver", "exact")]
    lengths = [w @ matrix @ w for w in found]
    assert lengths[1] < lengths[0] - 1e-3


def test_a_task_left_out_has_no_floor():
    state = PELTR(name="pe_ltr", floors={"b": 0.3}).initial_state(Run(("a", "b")))
    np.testing.assert_allclose(state["floors"], [0.0, 0.3])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="floors.a: expected a number from 0 to 1, got -0.1"):
        PELTR(name="pe_ltr", floors={"a": -0.1})
    with pytest.raises(ValueError, match="floors: expected at most 1 in sum, got 1.2"):
        PELTR(name="pe_ltr", floors={"a": 0.6, "b": 0.6})
    with pytest.raises(ValueError, match=r"floors: expected names of tasks \(ctr, cvr\), got 'a'"):
        PELTR(name="pe_ltr", floors={"a": 0.1}).check_tasks(("ctr", "cvr"))
