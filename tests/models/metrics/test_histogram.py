import math

import numpy as np
import pytest
from sklearn import metrics as reference

from models.metrics import (
    auc_bound,
    bin_edges,
    binned_auc,
    binned_pr_auc,
    expected_calibration_error,
    histogram_sums,
    lift_by_tenth,
    pr_auc_bounds,
    reliability,
)
from models.metrics.histogram import score_bins
from tests.models.metrics.conftest import sample, shards


@pytest.mark.parametrize("rate", [-6.0, -3.0, 0.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_areas_are_within_a_thousandth_and_within_the_stated_bounds(rate, weighted):
    rows = sample(40_000, tied=False, rate=rate)
    y, p = rows["labels"], rows["scores"]
    w = rows["weights"] if weighted else None
    sums = histogram_sums(y, p, w)
    auc, pr_auc = (f(y, p, sample_weight=w) for f in (reference.roc_auc_score, reference.average_precision_score))
    assert abs(binned_auc(sums) - auc) <= auc_bound(sums) + 1e-12
    assert auc_bound(sums) < 1e-3
    low, high = pr_auc_bounds(sums)
    assert low - 1e-12 <= pr_auc <= high + 1e-12
    assert binned_pr_auc(sums) == pytest.approx(pr_auc, abs=1e-3)


@pytest.mark.parametrize("bins", [1, 8, 64])
def test_bounds_hold_on_coarse_grids(bins):
    rows = sample(3000, tied=False)
    sums = histogram_sums(rows["labels"], rows["scores"], bins=bins)
    exact = reference.roc_auc_score(rows["labels"], rows["scores"])
    assert abs(binned_auc(sums) - exact) <= auc_bound(sums) + 1e-12
    low, high = pr_auc_bounds(sums)
    assert low <= reference.average_precision_score(rows["labels"], rows["scores"]) <= high


@pytest.mark.parametrize("cut", [2, 5])
def test_states_of_shards_add_up(rows, cut):
    whole = histogram_sums(rows["labels"], rows["scores"], rows["weights"])
    parts = sum(histogram_sums(s["labels"], s["scores"], s["weights"]) for s in shards(rows, cut))
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_bins_contain_their_scores():
    scores = np.concatenate([[0.0, 1e-9, 0.5, 1.0], np.random.default_rng(0).beta(0.3, 5, 1000)])
    where, edges = score_bins(scores), bin_edges()
    inside = (scores >= edges[where] * (1 - 1e-9)) & (scores <= edges[where + 1] * (1 + 1e-9))
    assert inside.all()


def test_reliability_has_the_sums_of_its_rows():
    rows = sample(5000, tied=False)
    y, p, w = rows["labels"], rows["scores"], rows["weights"]
    curve = reliability(histogram_sums(y, p, w), bins=10)
    assert len(curve.weight) == 10 and len(curve.edges) == 11
    np.testing.assert_allclose(curve.weight, w.sum() / 10, rtol=0.02)
    where = np.searchsorted(curve.edges[1:-1], p, side="right")
    for b in range(10):
        rows_of = where == b
        assert curve.predicted[b] == pytest.approx(np.average(p[rows_of], weights=w[rows_of]), rel=1e-9)
        assert curve.observed[b] == pytest.approx(np.average(y[rows_of], weights=w[rows_of]), rel=1e-9)
    gaps = np.abs(curve.predicted - curve.observed)
    assert expected_calibration_error(histogram_sums(y, p, w), 10) == pytest.approx(
        np.average(gaps, weights=curve.weight), rel=1e-12
    )


def test_ece_of_one_constant_score_is_its_distance_from_the_base_rate():
    sums = histogram_sums(np.array([1.0, 0, 0, 0]), np.full(4, 0.4))
    assert expected_calibration_error(sums) == pytest.approx(0.15, abs=1e-12)


def test_lift_is_that_of_rows_sorted_by_score():
    rows = sample(4000, tied=False)
    y = rows["labels"][np.argsort(-rows["scores"])]
    rate, lift = lift_by_tenth(histogram_sums(rows["labels"], rows["scores"]))
    expected = y.reshape(10, -1).mean(axis=1)
    np.testing.assert_allclose(rate, expected, atol=1e-2)
    np.testing.assert_allclose(lift, rate / y.mean(), rtol=1e-9)
    assert rate.mean() == pytest.approx(y.mean(), rel=1e-9)


def test_one_class_and_no_rows_are_not_defined():
    empty = histogram_sums(np.zeros(0), np.zeros(0))
    assert math.isnan(binned_auc(empty)) and math.isnan(expected_calibration_error(empty))
    assert math.isnan(binned_pr_auc(histogram_sums(np.zeros(2), np.full(2, 0.1))))
    assert binned_pr_auc(histogram_sums(np.ones(2), np.full(2, 0.1))) == 1.0
