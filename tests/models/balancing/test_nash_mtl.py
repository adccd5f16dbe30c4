"""Nash-MTL: G α = 1/α, against a root finder, from any state."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize

from models.balancing import NashMTL


def reference(matrix):
    """The minimum of ½αᵀGα - Σ log α in log α, where the problem has no constraint, with G over its Frobenius norm."""
    matrix = matrix / np.linalg.norm(matrix)
    found = minimize(
        lambda x: np.exp(x) @ matrix @ np.exp(x) / 2 - x.sum(),
        -0.5 * np.log(np.diag(matrix)),
        jac=lambda x: np.exp(x) * (matrix @ np.exp(x)) - 1,
        method="BFGS",
        options={"gtol": 1e-10},
    )
    return np.exp(found.x)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_is_the_bargaining_solution(tasks, gradients, rounded, weigh):
    for kind in ("random", "agreeing"):
        matrix = rounded(gradients(tasks)[kind])
        (alpha, _), state = weigh(NashMTL(name="nash_mtl"), np.ones(tasks), matrix)
        np.testing.assert_allclose(alpha, reference(matrix), rtol=1e-4)
        assert np.array_equal(alpha, state["alpha"])


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_every_task_gains_the_inverse_of_its_weight(tasks, scale, gradients, rounded, weigh):
    for kind in ("random", "agreeing", "conflicting", "of many lengths", "of extreme lengths", "parallel", "equal"):
        matrix = rounded(gradients(tasks)[kind] * (1.0 if kind == "of extreme lengths" else scale))
        alpha = weigh(NashMTL(name="nash_mtl"), np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        assert (alpha > 0).all()
        # Conflicts may leave nearly nothing to share, where float32 weights hold the products to fewer digits.
        shares = alpha * (matrix @ alpha) / np.linalg.norm(matrix)
        np.testing.assert_allclose(shares, np.ones(tasks), rtol=2e-3, err_msg=kind)


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_weights_are_positive_and_finite_where_no_solution_exists(tasks, gradients, rounded, weigh):
    for kind in ("opposite", "opposite, of other lengths", "rank deficient", "zero"):
        alpha = weigh(NashMTL(name="nash_mtl"), np.ones(tasks), rounded(gradients(tasks)[kind]))[0].shared.numpy()
        assert np.isfinite(alpha).all() and (alpha > 0).all() and alpha.max() < 1e5, (kind, alpha)


def test_opposite_gradients_cancel(weigh):
    g = np.array([[2.0, 0.0], [-1.0, 0.0]])
    w = weigh(NashMTL(name="nash_mtl"), [1, 1], g @ g.T)[0].shared.numpy()
    np.testing.assert_allclose(w @ g / (w @ np.abs(g).max(axis=1)), [0, 0], atol=1e-5)


def test_a_zero_gradient_has_weight_1_and_leaves_the_others_as_without_it(gradients, rounded, weigh):
    matrix = rounded(gradients(4)["one zero"])
    w = weigh(NashMTL(name="nash_mtl"), np.ones(4), matrix)[0].shared
    without = weigh(NashMTL(name="nash_mtl"), np.ones(3), matrix[1:, 1:])[0].shared
    assert w[0] == 1
    np.testing.assert_allclose(w[1:], without, rtol=1e-5)


@pytest.mark.parametrize("last", [[1.0, 1.0, 1.0], [1e30, 1e-30, 1.0], [1e-38, 1e-38, 1e-38], [1e38, 1e38, 1.0]])
def test_the_last_weights_are_only_a_start(last, gradients, rounded, weigh):
    matrix = rounded(gradients(3)["of many lengths"])
    state = {"alpha": tf.constant(last, tf.float32)}
    alpha = weigh(NashMTL(name="nash_mtl"), np.ones(3), matrix, state)[0].shared
    np.testing.assert_allclose(alpha, weigh(NashMTL(name="nash_mtl"), np.ones(3), matrix)[0].shared, rtol=1e-5)


@pytest.mark.parametrize("seed", [25, 130, 399, 1, 2, 3])
def test_dependent_gradients_do_not_lead_the_iteration_out_of_the_positive_weights(seed, rounded, weigh):
    # From the first three of these seeds whole Newton steps end at negative weights.
    g = np.random.default_rng(seed).normal(size=(8, 4))
    matrix = rounded(g / np.linalg.norm(g, axis=1, keepdims=True))
    values, vectors = np.linalg.eigh(matrix)
    definite = vectors * np.maximum(values, 1e-5) @ vectors.T / np.linalg.norm(matrix)
    alpha = weigh(NashMTL(name="nash_mtl"), np.ones(8), matrix)[0].shared.numpy().astype(np.float64)
    assert (alpha > 0).all()
    # The Newton step that is left, relative to the weights.
    left = 1 - alpha * (definite @ alpha)
    assert np.abs(np.linalg.solve(alpha[:, None] * definite * alpha + np.eye(8), left)).max() < 1e-3
