"""Metrics of a stream of predictions: AUC, PR-AUC, calibration by bin, from sums on a fixed grid of scores.

The state is a float64 array [3, bins]: weight of the negatives, of the positives, and weighted scores, per bin. The
bins are even in the logarithm of the odds between EPSILON and 1 - EPSILON, because the scores of rare events crowd
near 0. States add up.

What binning costs is known from the state itself: only pairs within a bin can be in the wrong order, so the exact AUC
lies within `auc_bound` of the binned one, and the exact PR-AUC within `pr_auc_bounds`. With the default grid a bin is
0.2 % of the odds wide; scores whose log-odds spread by 1 give bounds below 0.0003.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.metrics.pointwise import EPSILON
from models.metrics.rows import counted_rows

BINS = 16384
NEGATIVES, POSITIVES, PREDICTED = range(3)

_TOP = float(np.log1p(-EPSILON) - np.log(EPSILON))


def score_bins(scores: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Number of the bin of each score, int64; higher scores have higher numbers."""
    p = np.clip(np.asarray(scores, np.float64), EPSILON, 1 - EPSILON)
    log_odds = np.log(p) - np.log1p(-p)
    return np.minimum(((log_odds + _TOP) * (bins / (2 * _TOP))).astype(np.int64), bins - 1)


def bin_edges(bins: int = BINS) -> np.ndarray:
    """Scores at which bins begin and end, [bins + 1], from 0 to 1."""
    edges = 1 / (1 + np.exp(-np.linspace(-_TOP, _TOP, bins + 1)))
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def histogram_sums(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, bins: int = BINS
) -> np.ndarray:
    """The state of a shard, float64 [3, bins]; states add up.

    Args:
      labels: 0 or 1; rows with a missing label (NaN) do not count.
      scores: probabilities.
      weights: example weights, 1 by default.
      bins: of the grid; states of the same grid add up.

    Raises:
      ValueError: see `counted_rows`.
    """
    y, p, w, _ = counted_rows(labels, scores, weights)
    where = score_bins(p, bins)
    return np.stack([np.bincount(where, column, bins) for column in (w * (1 - y), w * y, w * p)])


def binned_auc(sums: np.ndarray) -> float:
    """Area under the ROC curve, pairs within a bin counted one half. NaN for one class."""
    negatives, positives = sums[NEGATIVES], sums[POSITIVES]
    pairs = negatives.sum() * positives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / pairs) if pairs > 0 else float("nan")


def auc_bound(sums: np.ndarray) -> float:
    """How far the exact AUC can be from the binned one: half the share of the pairs that share a bin."""
    pairs = sums[NEGATIVES].sum() * sums[POSITIVES].sum()
    return float(sums[NEGATIVES] @ sums[POSITIVES] / (2 * pairs)) if pairs > 0 else float("nan")


def binned_pr_auc(sums: np.ndarray) -> float:
    """Average precision, rows within a bin taken for tied (scikit-learn's rule for ties). NaN without a positive."""
    true, all_, positives = _above(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(all_ > 0, true / all_, 0.0)
    total = positives.sum()
    return float(positives @ precision / total) if total > 0 else float("nan")


def pr_auc_bounds(sums: np.ndarray) -> tuple[float, float]:
    """A lower and an upper bound of the exact average precision.

    The lower one puts the negatives of each bin first and integrates the precision over its positives, the upper one
    gives all positives of a bin the precision that they would have without its negatives.
    """
    true, all_, positives = _above(sums)
    negatives = sums[NEGATIVES][::-1]
    total = positives.sum()
    if not total > 0:
        return float("nan"), float("nan")
    false = all_ - true
    with np.errstate(divide="ignore", invalid="ignore"):
        highest = np.where(positives > 0, positives * true / (all_ - negatives), 0.0)
    lowest = _integrated(true - positives, false, positives)
    return float(lowest.sum() / total), float(highest.sum() / total)


class Reliability(NamedTuple):
    """Bins of about equal weight: edges [n + 1], weight, mean score and share of positives, each [n]."""

    edges: np.ndarray
    weight: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def reliability(sums: np.ndarray, bins: int = 20) -> Reliability:
    """The reliability curve: the grid's bins put together to at most `bins` of about equal weight."""
    weight = sums[NEGATIVES] + sums[POSITIVES]
    group = equal_weight_groups(weight, bins)
    used = np.unique(group[weight > 0])
    totals = np.stack([np.bincount(group, column, bins) for column in (weight, sums[PREDICTED], sums[POSITIVES])])
    totals = totals[:, used]
    edges = bin_edges(sums.shape[1])
    # A bin ends where the next one that has rows begins.
    starts = [int(np.flatnonzero((group == g) & (weight > 0))[0]) for g in used]
    last = int(np.flatnonzero(weight > 0)[-1]) + 1 if len(used) else 0
    cuts = edges[[*starts, last]]
    return Reliability(cuts, totals[0], totals[1] / totals[0], totals[2] / totals[0])


def equal_weight_groups(weight: np.ndarray, groups: int) -> np.ndarray:
    """For each bin of a grid, which of `groups` groups of about equal weight it belongs to, in order."""
    middle = np.cumsum(weight) - weight / 2
    total = weight.sum()
    if not total > 0:
        return np.zeros(len(weight), np.int64)
    return np.minimum((middle / total * groups).astype(np.int64), groups - 1)


def expected_calibration_error(sums: np.ndarray, bins: int = 20) -> float:
    """Mean over rows of |mean score - share of positives| of their bin in the reliability curve. Lower is better."""
    curve = reliability(sums, bins)
    total = curve.weight.sum()
    return float(curve.weight @ np.abs(curve.predicted - curve.observed) / total) if total > 0 else float("nan")


def lift_by_tenth(sums: np.ndarray, parts: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Share of positives in each tenth of the rows, the highest scores first, and the same over that of all rows.

    Rows of a bin that lies across two tenths are split between them in proportion.
    """
    weight = (sums[NEGATIVES] + sums[POSITIVES])[::-1]
    edges = np.concatenate([[0.0], np.cumsum(weight)])
    gathered = np.concatenate([[0.0], np.cumsum(sums[POSITIVES][::-1])])
    at = np.interp(np.linspace(0, edges[-1], parts + 1), edges, gathered)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.diff(at) * parts / edges[-1]
        return rate, rate / (gathered[-1] / edges[-1])


def _above(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the highest bin down: weight of positives, and of all rows, down to each bin; positives of each bin."""
    positives, negatives = sums[POSITIVES][::-1], sums[NEGATIVES][::-1]
    true = np.cumsum(positives)
    return true, true + np.cumsum(negatives), positives


def _integrated(before: np.ndarray, false: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Integral of t / (t + false) over the positives of each bin, t from `before` on."""
    end = before + positives
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(false > 0, false * np.log((end + false) / (before + false)), 0.0)
    return np.where(positives > 0, positives - logs, 0.0)
