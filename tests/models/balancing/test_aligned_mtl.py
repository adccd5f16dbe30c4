"""Aligned-MTL against the singular value decomposition of the gradient matrix."""

import numpy as np
import pytest

from models.balancing import AlignedMTL


def reference(g):
    """The sum of the rows of σ U Vᵀ, with g = U S Vᵀ and σ the least singular value that is not zero."""
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    kept = s**2 > len(g) * np.finfo(np.float32).eps * s[0] ** 2
    return (s[kept].min() * u[:, kept] @ vt[kept]).sum(axis=0)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_sums_the_aligned_gradients(tasks, scale, gradients, weigh):
    for kind in ("random", "agreeing", "one zero"):
        g = gradients(tasks)[kind] * scale
        w = weigh(AlignedMTL(name="aligned_mtl"), np.ones(tasks), g @ g.T)[0].shared.numpy()
        np.testing.assert_allclose(w @ g, reference(g), atol=1e-3 * np.abs(reference(g)).max(), err_msg=kind)


def test_orthogonal_gradients_of_equal_length_are_left_alone(weigh):
    w = weigh(AlignedMTL(name="aligned_mtl"), np.ones(3), 4.0 * np.eye(3))[0].shared
    np.testing.assert_allclose(w, np.ones(3), rtol=1e-6)


def test_orthogonal_gradients_are_cut_to_the_shortest(weigh):
    w = weigh(AlignedMTL(name="aligned_mtl"), np.ones(3), np.diag([1.0, 4.0, 16.0]))[0].shared
    np.testing.assert_allclose(w, [1.0, 0.5, 0.25], rtol=1e-6)


def test_equal_gradients_are_averaged(weigh):
    # Rank 1: the aligned gradients are the gradients, and the shortest vector with that sum weighs them equally.
    w = weigh(AlignedMTL(name="aligned_mtl"), np.ones(4), np.ones((4, 4)))[0].shared
    np.testing.assert_allclose(w, np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_weights_are_bounded_whatever_the_gradients(tasks, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        w = weigh(AlignedMTL(name="aligned_mtl"), np.ones(tasks), rounded(g))[0].shared.numpy()
        assert np.isfinite(w).all() and np.linalg.norm(w) <= np.sqrt(tasks) * (1 + 1e-5), kind
    assert np.array_equal(w, np.ones(tasks))  # the last of them, all zero
