"""CAGrad: the paper's problem, certified by its dual."""

import numpy as np
import pytest
from scipy.optimize import minimize

from models.balancing import CAGrad

USUAL = ("random", "agreeing", "conflicting", "one zero", "parallel")


def dual(g, c):
    """min over the simplex of g_w·g_0 + c‖g_0‖‖g_w‖ by SLSQP from several starts: no direction does better."""
    tasks, average = len(g), g.mean(axis=0)
    radius = c * np.linalg.norm(average)

    def objective(w):
        return w @ g @ average + radius * np.linalg.norm(w @ g)

    starts = [np.full(tasks, 1 / tasks), *(0.9 * np.eye(tasks) + 0.1 / tasks)]
    return min(
        minimize(
            objective,
            start,
            bounds=[(0, 1)] * tasks,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-13, "maxiter": 200},
        ).fun
        for start in starts
    )


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_no_direction_in_the_ball_helps_the_worst_task_more(tasks, c, gradients, weigh):
    for kind in USUAL:
        g = gradients(tasks)[kind]
        w = weigh(CAGrad(name="cagrad", c=c), np.ones(tasks), g @ g.T)[0].shared.numpy()
        d, average = w @ g, g.mean(axis=0)
        scale = np.linalg.norm(average)
        assert np.linalg.norm(d - average) <= c * scale * (1 + 1e-4), kind
        present = g[g.any(axis=1)]
        # SLSQP may stop short of the minimum, never below it: the direction reaches the bound or passes SLSQP's.
        bound = dual(g, c) if len(present) == tasks else dual_of_present(g, present, c)
        assert (present @ d).min() >= bound - 1e-4 * scale * np.linalg.norm(g, axis=1).max(), kind


def dual_of_present(g, present, c):
    """The bound with the ball of all gradients and the worst of those that are not zero."""
    average = g.mean(axis=0)
    radius = c * np.linalg.norm(average)
    return minimize(
        lambda w: w @ present @ average + radius * np.linalg.norm(w @ present),
        np.full(len(present), 1 / len(present)),
        bounds=[(0, 1)] * len(present),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-13, "maxiter": 200},
    ).fun


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_stays_in_the_ball_and_never_harms_the_worst_task(tasks, c, scale, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        matrix = rounded(g * (1.0 if kind == "of extreme lengths" else scale))
        w = weigh(CAGrad(name="cagrad", c=c), np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        assert np.isfinite(w).all()
        average = np.full(tasks, 1 / tasks)
        off, radius = w - average, c * np.sqrt(max(average @ matrix @ average, 0))
        norms = np.sqrt(np.diag(matrix))
        assert np.sqrt(max(off @ matrix @ off, 0)) <= radius + 1e-3 * np.abs(off) @ norms, kind
        # The average is in the ball, so the worst task fares no worse than with it.
        present = norms > 0
        if present.any():
            rounding = 1e-5 * norms.max() * (np.abs(w) @ norms)
            assert (matrix @ w)[present].min() >= (matrix @ average)[present].min() - rounding, kind


@pytest.mark.parametrize("c", [0.3, 0.7])
def test_two_orthogonal_gradients_by_hand(c, weigh):
    # Equal lengths: by symmetry d is along the average, as far out as the ball allows.
    w = weigh(CAGrad(name="cagrad", c=c), [1, 1], np.eye(2))[0].shared
    np.testing.assert_allclose(w, [0.5 * (1 + c)] * 2, rtol=1e-5)


def test_the_worst_task_gains_more_than_by_the_average(weigh):
    g = np.array([[3.0, 0.0], [-1.0, 1.0]])
    w = weigh(CAGrad(name="cagrad"), [1, 1], g @ g.T)[0].shared.numpy()
    assert (g @ (w @ g)).min() > (g @ g.mean(axis=0)).min() + 0.1


def test_c_is_a_share():
    with pytest.raises(ValueError, match="less than 1"):
        CAGrad(name="cagrad", c=1.0)
