import functools
import math
import operator

import numpy as np
import pytest
from sklearn import metrics as reference

from models.metrics import auc, auc_rows, delong, pr_auc, pr_auc_rows, score_sums
from tests.models.metrics.conftest import sample, shards


@pytest.mark.parametrize("cut", [1, 2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_areas_equal_scikit_learns_however_the_rows_are_split(rows, cut, weighted):
    w = rows["weights"] if weighted else None
    parts = [score_sums(s["labels"], s["scores"], s["weights"] if weighted else None) for s in shards(rows, cut)]
    sums = functools.reduce(operator.add, parts)
    expected = reference.roc_auc_score(rows["labels"], rows["scores"], sample_weight=w)
    assert auc(sums) == pytest.approx(expected, abs=1e-9)
    expected = reference.average_precision_score(rows["labels"], rows["scores"], sample_weight=w)
    assert pr_auc(sums) == pytest.approx(expected, abs=1e-9)


def test_order_alone_decides():
    rows = sample(tied=True)
    squeezed = score_sums(rows["labels"], rows["scores"] / 3)
    assert auc(squeezed) == pytest.approx(auc(score_sums(rows["labels"], rows["scores"])), abs=1e-12)
    turned = score_sums(rows["labels"], 1 - rows["scores"])
    assert auc(turned) == pytest.approx(1 - auc(score_sums(rows["labels"], rows["scores"])), abs=1e-12)


def test_one_class_is_not_defined():
    assert math.isnan(auc(score_sums(np.ones(2), np.array([0.1, 0.2]))))
    assert math.isnan(pr_auc(score_sums(np.zeros(2), np.array([0.1, 0.2]))))


def derivative(metric, y, p, w, row):
    step = 1e-5
    up, down = w.copy(), w.copy()
    up[row] += step
    down[row] -= step
    return (metric(y, p, sample_weight=up) - metric(y, p, sample_weight=down)) / (2 * step)


def test_terms_of_auc_are_its_derivatives():
    rows = sample(80)
    y, p, w = rows["labels"], rows["scores"], rows["weights"] + 0.5
    value, terms = auc_rows(y, p, w)
    totals = terms.sum(axis=0)
    assert totals[0] / totals[1] == pytest.approx(value, abs=1e-12)
    assert totals[2] / totals[3] == pytest.approx(value, abs=1e-12)

    def expanded(change):
        s = (terms * (1 + change)[:, None]).sum(axis=0)
        return s[0] / s[1] + s[2] / s[3] - value

    for row in range(0, 80, 7):
        change = np.zeros(80)
        change[row] = 1e-6
        slope = (expanded(change) - value) / 1e-6
        assert slope == pytest.approx(w[row] * derivative(reference.roc_auc_score, y, p, w, row), abs=1e-6)


def test_terms_of_pr_auc_are_its_derivatives():
    rows = sample(80)
    y, p, w = rows["labels"], rows["scores"], rows["weights"] + 0.5
    value, terms = pr_auc_rows(y, p, w)
    assert value == pytest.approx(reference.average_precision_score(y, p, sample_weight=w), abs=1e-12)
    assert terms.sum() == pytest.approx(0, abs=1e-12)
    for row in range(0, 80, 7):
        expected = w[row] * derivative(reference.average_precision_score, y, p, w, row)
        assert terms[row] == pytest.approx(expected, abs=1e-6)


def plain_delong(y, a, b):
    """Straight from the paper: structural components of every positive and negative, unweighted."""

    def components(p):
        psi = (p[y == 1][:, None] > p[y == 0][None, :]) + 0.5 * (p[y == 1][:, None] == p[y == 0][None, :])
        return psi.mean(axis=1), psi.mean(axis=0)

    (v10a, v01a), (v10b, v01b) = components(a), components(b)
    s10, s01 = np.cov(v10a, v10b), np.cov(v01a, v01b)
    s = s10 / len(v10a) + s01 / len(v01a)
    return v10b.mean() - v10a.mean(), math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])


def test_delong_is_the_papers():
    rows, other = sample(seed=3), sample(seed=4)
    y, a = rows["labels"], rows["scores"]
    b = np.round(0.7 * a + 0.3 * other["scores"], 2)
    difference, error = delong(y, a, b)
    expected = plain_delong(y, a, b)
    assert difference == pytest.approx(expected[0], abs=1e-12)
    assert error == pytest.approx(expected[1], rel=1e-9)
