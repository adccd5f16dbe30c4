"""IMTL-G against the paper's matrix formula on the gradients."""

import numpy as np
import pytest

from models.balancing import IMTLG


def reference(g):
    """α_{2:K} = g_1 Uᵀ (D Uᵀ)⁻¹, rows of U: u_1 - u_k, of D: g_1 - g_k; α_1 = 1 - Σ α_{2:K}."""
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    differences, units = g[0] - g[1:], u[0] - u[1:]
    rest = g[0] @ units.T @ np.linalg.inv(differences @ units.T)
    return np.concatenate([[1 - rest.sum()], rest])


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_follows_the_papers_formula(tasks, gradients, weigh):
    for kind in ("random", "agreeing"):
        g = gradients(tasks)[kind]
        w = weigh(IMTLG(name="imtl_g"), np.ones(tasks), g @ g.T)[0].shared
        np.testing.assert_allclose(w, reference(g), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_projections_on_all_gradients_are_equal(tasks, scale, gradients, rounded, weigh):
    for kind in ("random", "agreeing", "of many lengths", "of extreme lengths", "parallel", "equal", "opposite"):
        matrix = rounded(gradients(tasks)[kind] * (1.0 if kind == "of extreme lengths" else scale))
        w = weigh(IMTLG(name="imtl_g"), np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        norms = np.sqrt(np.diag(matrix))
        np.testing.assert_allclose(w.sum(), 1, rtol=1e-4)
        assert np.ptp(matrix @ w / norms) < 1e-5 * (np.abs(w) @ norms), kind


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_weights_are_bounded_whatever_the_gradients(tasks, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        w = weigh(IMTLG(name="imtl_g"), np.ones(tasks), rounded(g))[0].shared.numpy()
        assert np.isfinite(w).all() and np.abs(w).sum() <= 1.001e4, kind


def test_a_sum_of_nearly_zero_is_bounded(weigh):
    # cos = 0.5 and 2 tasks give a positive sum; three with C⁻¹1 = (1, 1, -1)-like signs and chosen lengths do not.
    cosines = np.array([[1.0, 0.0, 0.8], [0.0, 1.0, 0.6 - 1e-3], [0.8, 0.6 - 1e-3, 1.0]])
    solved = np.linalg.solve(cosines, np.ones(3))
    assert solved.min() < 0 < solved.max()
    negative = solved < 0
    lengths = np.where(negative, -solved[negative].sum() / solved[~negative].sum(), 1.0)
    assert abs((solved / lengths).sum()) < 1e-6 * np.abs(solved / lengths).sum()
    w = weigh(IMTLG(name="imtl_g"), np.ones(3), cosines * np.outer(lengths, lengths))[0].shared.numpy()
    assert np.isfinite(w).all() and 1e3 < np.abs(w).sum() <= 1.001e4


def test_a_zero_gradient_has_no_weight_and_leaves_the_others_as_without_it(gradients, rounded, weigh):
    matrix = rounded(gradients(4)["one zero"])
    w = weigh(IMTLG(name="imtl_g"), np.ones(4), matrix)[0].shared
    assert w[0] == 0
    np.testing.assert_allclose(w[1:], weigh(IMTLG(name="imtl_g"), np.ones(3), matrix[1:, 1:])[0].shared, rtol=1e-5)
    np.testing.assert_allclose(weigh(IMTLG(name="imtl_g"), np.ones(4), 0 * matrix)[0].shared, np.full(4, 0.25))
