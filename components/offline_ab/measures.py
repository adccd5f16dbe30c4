"""The metrics of one side on some rows, each as sums per user and a function of their totals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.offline_ab.document import Better
from models import metrics
from models.metrics.histogram import BINS, equal_weight_groups, score_bins

Value = Callable[[np.ndarray], np.ndarray]

ECE_BINS = 20


@dataclass(frozen=True)
class Measure:
    """A metric of some rows.

    Attributes:
      name: of the metric.
      better: which way is better.
      columns: sums per user, float64 [users, m].
      value: from totals [..., m] to the metric [...].
      left_out: groups that it cannot judge.
    """

    name: str
    better: Better | None
    columns: np.ndarray
    value: Value
    left_out: int = 0


@dataclass(frozen=True)
class Rows:
    """Rows on which a task is judged: labels 0 or 1, weights above 0, codes from 0 of users, ids of requests.

    Attributes:
      users: code of each row's user, from 0 to `user_count` - 1.
      requests: code of each row's request, integers; None leaves out the metrics per request.
      prices, values: for the value at k; None leaves it out.
    """

    labels: np.ndarray
    weights: np.ndarray
    users: np.ndarray
    user_count: int
    requests: np.ndarray | None = None
    prices: np.ndarray | None = None
    values: np.ndarray | None = None


def measures(rows: Rows, scores: np.ndarray, at_k: int) -> list[Measure]:
    """All metrics of one side's scores, in the order of a report.

    AUC, PR-AUC, ECE and calibration_error are expanded to first order around the rows as they are; the totals of the
    rows as they are give the exact metric. All others are exact functions of the sums.
    """
    y, w = rows.labels, rows.weights
    auc, auc_rows = metrics.auc_rows(y, scores, w)
    pr_auc, pr_auc_rows = metrics.pr_auc_rows(y, scores, w)
    points = _per_user(rows, metrics.pointwise_rows(y, scores, w).T)
    found = [
        Measure("auc", "higher", _per_user(rows, auc_rows.T), _auc_around(auc)),
        Measure("pr_auc", "higher", _per_user(rows, [pr_auc_rows]), lambda s: pr_auc + s[..., 0]),
        _of_groups("gauc", metrics.gauc(metrics.group_sums(rows.users, y, scores, w)), rows.user_count),
        Measure("log_loss", "lower", points, metrics.log_loss),
        Measure("normalised_entropy", "lower", points, metrics.normalised_entropy),
        Measure("calibration", None, points, metrics.calibration),
        Measure("calibration_error", "lower", points, _calibration_error_around(points.sum(axis=0))),
        Measure("ece", "lower", _per_user(rows, _ece_rows(y, scores, w)), lambda s: _ratio(s[..., 0], s[..., 1])),
    ]
    if rows.requests is not None:
        found += _per_request(rows, scores, at_k)
    return found


def _per_request(rows: Rows, scores: np.ndarray, k: int) -> list[Measure]:
    assert rows.requests is not None
    requests, first = np.unique(rows.requests, return_index=True)
    user_of = rows.users[first]
    code = np.searchsorted(requests, rows.requests)
    state = metrics.group_sums(code, rows.labels, scores, rows.weights)
    found = [
        _of_groups(f"{name}@{k}", metric(state, k), rows.user_count, user_of)
        for name, metric in (("ndcg", metrics.ndcg_at_k), ("map", metrics.map_at_k), ("recall", metrics.recall_at_k))
    ]
    if rows.prices is not None:
        values = rows.values if rows.values is not None else rows.prices * rows.labels
        state = metrics.group_sums(code, rows.labels, scores, rows.weights, values=values, prices=rows.prices)
        found.append(_of_groups(f"value@{k}", metrics.value_at_k(state, k), rows.user_count, user_of))
        expected = _of_groups(
            f"expected_value@{k}", metrics.expected_value_at_k(state, k), rows.user_count, user_of, better=None
        )
        found.append(expected)
    return found


def _of_groups(
    name: str,
    values: metrics.GroupValues,
    users: int,
    user_of: np.ndarray | None = None,
    better: Better | None = "higher",
) -> Measure:
    owner = values.group if user_of is None else user_of[values.group]
    sums = [np.bincount(owner, column, users) for column in (values.weight * values.value, values.weight)]
    return Measure(name, better, np.stack(sums, axis=1), lambda s: _ratio(s[..., 0], s[..., 1]), values.left_out)


def _per_user(rows: Rows, columns: np.ndarray | list[np.ndarray]) -> np.ndarray:
    return np.stack([np.bincount(rows.users, column, rows.user_count) for column in columns], axis=1)


def _auc_around(value: float) -> Value:
    return lambda s: _ratio(s[..., 0], s[..., 1]) + _ratio(s[..., 2], s[..., 3]) - value


def _calibration_error_around(sums: np.ndarray) -> Value:
    # With the sign held: the bootstrap of an absolute value is biased upwards near 0.
    sign = -1.0 if metrics.calibration(sums) < 1 else 1.0
    return lambda s: sign * (metrics.calibration(s) - 1)


def _ece_rows(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
    """Weighted gap of each row, with the sign that its bin's gap has, and the weights."""
    bin_ = score_bins(p)
    group = equal_weight_groups(np.bincount(bin_, w, BINS), ECE_BINS)[bin_]
    sign = np.where(np.bincount(group, w * (p - y), ECE_BINS) < 0, -1.0, 1.0)
    return [sign[group] * w * (p - y), w]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below
