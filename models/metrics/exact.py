"""AUC and average precision of sorted scores, exact, with what each row contributes.

The state is the distinct scores with the weights of positives and negatives at each; merging two states adds up the
weights at equal scores. It is as long as there are distinct scores: for streams there is `models.metrics.histogram`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.metrics.rows import counted_rows


@dataclass(frozen=True)
class ScoreSums:
    """Distinct scores, ascending, and the weight of the positives and negatives that have them; float64 [n] each."""

    score: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    def __add__(self, other: ScoreSums) -> ScoreSums:
        score, where = np.unique(np.concatenate([self.score, other.score]), return_inverse=True)
        return ScoreSums(
            score,
            np.bincount(where, np.concatenate([self.positive, other.positive]), len(score)),
            np.bincount(where, np.concatenate([self.negative, other.negative]), len(score)),
        )


def score_sums(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> ScoreSums:
    """The state of a shard. Rows with a missing label (NaN) do not count.

    Raises:
      ValueError: see `counted_rows`.
    """
    y, p, w, _ = counted_rows(labels, scores, weights)
    return _sums(y, p, w)[0]


def auc(sums: ScoreSums) -> float:
    """Share of the pairs of a positive and a negative in which the positive scores higher; ties count one half.

    NaN for one class.
    """
    pairs = sums.positive.sum() * sums.negative.sum()
    return float(sums.positive @ _below(sums) / pairs) if pairs > 0 else float("nan")


def pr_auc(sums: ScoreSums) -> float:
    """Average precision: mean over the positives of the precision at their score, ties included. NaN without one.

    It is the area under the precision-recall curve by the step rule (scikit-learn's average_precision_score).
    """
    total = sums.positive.sum()
    true, all_ = _at_least(sums)
    return float(sums.positive @ (true / all_) / total) if total > 0 else float("nan")


def auc_rows(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC, and per row the terms of its first-order expansion, float64 [rows, 4].

    Columns: w·y·(share of the negatives below), w·y, w·(1-y)·(share of the positives above), w·(1-y). With the sums s
    of the columns under other weights of the rows, s0/s1 + s2/s3 - AUC is the AUC under these weights to first order
    (the Hájek projection of the U-statistic). These are the placements of DeLong, DeLong and Clarke-Pearson,
    Comparing the areas under two or more correlated ROC curves, Biometrics 1988.

    Args:
      labels, scores, weights: as `counted_rows` returns them.
    """
    sums, where = _sums(labels, scores, weights)
    positive, negative = weights * labels, weights * (1 - labels)
    above = sums.positive.sum() - np.cumsum(sums.positive) + sums.positive / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (_below(sums) / sums.negative.sum())[where]
        above = (above / sums.positive.sum())[where]
    return auc(sums), np.stack([positive * below, positive, negative * above, negative], axis=1)


def pr_auc_rows(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision, and per row its derivative by the row's weight times that weight, float64 [rows].

    The derivatives sum to 0, because the metric does not depend on the scale of the weights.
    """
    sums, where = _sums(labels, scores, weights)
    total = sums.positive.sum()
    true, all_ = _at_least(sums)
    value = pr_auc(sums)
    # A row at a score counts in the precision of every positive that scores as high or lower.
    gain = np.cumsum(sums.positive / all_)
    loss = np.cumsum(sums.positive * true / all_**2)
    of_positive = (true / all_ + gain - loss - value) / total
    of_negative = -loss / total
    return value, weights * np.where(labels == 1, of_positive[where], of_negative[where])


def delong(
    labels: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """AUC of b minus AUC of a, and its standard error if rows were independent.

    Reference: DeLong, DeLong and Clarke-Pearson, Biometrics 1988. With weights the placements are weighted means, and
    their variance that of weighted means.
    """
    y, a, w, _ = counted_rows(labels, scores_a, weights)
    b = counted_rows(labels, scores_b, weights)[1]
    auc_a, rows_a = auc_rows(y, a, w)
    auc_b, rows_b = auc_rows(y, b, w)
    variance = 0.0
    for column in (0, 2):
        of_class = rows_a[:, column + 1] > 0
        weight = rows_a[of_class, column + 1]
        difference = (rows_b[of_class, column] - rows_a[of_class, column]) / weight
        n, share = len(weight), weight / weight.sum()
        deviation = difference - share @ difference
        variance += float((share * deviation) @ (share * deviation)) * n / (n - 1) if n > 1 else float("nan")
    return auc_b - auc_a, float(np.sqrt(variance))


def _sums(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[ScoreSums, np.ndarray]:
    score, where = np.unique(scores, return_inverse=True)
    where = where.reshape(-1)
    positive = np.bincount(where, weights * labels, len(score))
    negative = np.bincount(where, weights * (1 - labels), len(score))
    return ScoreSums(score, positive, negative), where


def _below(sums: ScoreSums) -> np.ndarray:
    return np.cumsum(sums.negative) - sums.negative / 2


def _at_least(sums: ScoreSums) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives, and of all rows, that score at least as high, per distinct score."""
    true = np.cumsum(sums.positive[::-1])[::-1]
    return true, true + np.cumsum(sums.negative[::-1])[::-1]
