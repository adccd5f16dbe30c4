import math

import numpy as np
import pytest
from sklearn import metrics as reference

from models.metrics import (
    base_rate,
    calibration,
    calibration_error,
    log_loss,
    normalised_entropy,
    pointwise_rows,
    pointwise_sums,
)
from tests.models.metrics.conftest import sample, shards


@pytest.mark.parametrize("cut", [1, 2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_their_references_however_the_rows_are_split(rows, cut, weighted):
    y, p = rows["labels"], rows["scores"]
    w = rows["weights"] if weighted else np.ones(len(y))
    sums = sum(pointwise_sums(s["labels"], s["scores"], s["weights"] if weighted else None) for s in shards(rows, cut))
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    loss = reference.log_loss(y, clipped, sample_weight=w)
    rate = (w * y).sum() / w.sum()
    assert log_loss(sums) == pytest.approx(loss, abs=1e-9)
    assert base_rate(sums) == pytest.approx(rate, abs=1e-12)
    assert calibration(sums) == pytest.approx((w * p).sum() / (w * y).sum(), abs=1e-9)
    assert calibration_error(sums) == pytest.approx(abs((w * p).sum() / (w * y).sum() - 1), abs=1e-9)
    always = reference.log_loss(y, np.full(len(y), rate), sample_weight=w)
    assert normalised_entropy(sums) == pytest.approx(loss / always, abs=1e-9)


def test_missing_labels_do_not_count(rows):
    y = rows["labels"].copy()
    y[::3] = np.nan
    kept = np.delete(np.arange(len(y)), np.arange(0, len(y), 3))
    found = pointwise_sums(y, rows["scores"], rows["weights"])
    expected = pointwise_sums(y[kept], rows["scores"][kept], rows["weights"][kept])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_predicting_the_base_rate_has_a_normalised_entropy_of_one():
    sums = pointwise_sums(np.array([1.0, 0, 0, 0]), np.full(4, 0.25))
    assert normalised_entropy(sums) == pytest.approx(1.0, abs=1e-12)
    assert calibration(sums) == pytest.approx(1.0, abs=1e-12)


def test_one_class_and_no_rows_are_not_defined():
    negatives = pointwise_sums(np.zeros(3), np.full(3, 0.1))
    assert math.isnan(calibration(negatives)) and math.isnan(normalised_entropy(negatives))
    assert log_loss(negatives) == pytest.approx(-math.log(0.9), abs=1e-12)
    assert math.isnan(log_loss(pointwise_sums(np.zeros(0), np.zeros(0))))


def test_certain_scores_that_are_wrong_cost_a_finite_loss():
    sums = pointwise_sums(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert log_loss(sums) == pytest.approx(-math.log(1e-7), rel=1e-9)


def test_sums_of_replicates_are_taken_along_leading_axes(rows):
    matrix = pointwise_rows(rows["labels"], rows["scores"])
    totals = np.stack([matrix[:100].sum(0), matrix.sum(0)])
    assert log_loss(totals).tolist() == pytest.approx([float(log_loss(t)) for t in totals])


@pytest.mark.parametrize(
    "labels, scores, weights, message",
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], None, "labels: expected 0 or 1, got 2 in row 2"),
        ([np.nan, 1], [0.1, 1.5], None, "scores: expected a probability from 0 to 1, got 1.5 in row 1"),
        ([0, 1], [0.1, np.nan], None, "got nan in row 1"),
        ([0, 1], [0.1, 0.2], [1, -1], "weights: expected a finite number of at least 0, got -1 in row 1"),
        ([0, 1], [0.1], None, "expected as many labels, scores and weights, got 2, 1 and 2"),
    ],
)
def test_wrong_rows_are_refused(labels, scores, weights, message):
    with pytest.raises(ValueError, match=message):
        pointwise_sums(np.array(labels, float), np.array(scores), None if weights is None else np.array(weights))


def test_sample_has_ties_and_both_classes():
    columns = sample()
    assert len(np.unique(columns["scores"])) < len(columns["scores"]) / 2
    assert 0.2 < columns["labels"].mean() < 0.5
