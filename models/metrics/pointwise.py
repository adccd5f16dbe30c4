"""Metrics of single predictions: log loss, normalised entropy and calibration.

The state of all of them is one float64 array [..., 4] of sums over rows: weight, weighted labels, weighted scores and
weighted log loss. States add up, so that shards, days and bootstrap replicates do; every metric below is a function of
the sums alone and takes any leading axes.
"""

from __future__ import annotations

import numpy as np

from models.metrics.rows import counted_rows

WEIGHT, POSITIVES, PREDICTED, LOSS = range(4)

EPSILON = 1e-7
"""Scores are held this far from 0 and 1 in logarithms, as Keras and TFMA do."""


def pointwise_rows(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """What each row that counts adds to the sums, float64 [rows, 4]."""
    y, p, w, _ = counted_rows(labels, scores, weights)
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    loss = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
    return np.stack([w, w * y, w * p, w * loss], axis=1)


def pointwise_sums(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The state of a shard, float64 [4]; states add up.

    Args:
      labels: 0 or 1; rows with a missing label (NaN) do not count.
      scores: probabilities.
      weights: example weights, 1 by default.

    Raises:
      ValueError: see `counted_rows`.
    """
    return pointwise_rows(labels, scores, weights).sum(axis=0)


def log_loss(sums: np.ndarray) -> np.ndarray:
    """Mean -log of the probability of what happened, in nats. Lower is better."""
    return _ratio(sums[..., LOSS], sums[..., WEIGHT])


def base_rate(sums: np.ndarray) -> np.ndarray:
    """Mean label."""
    return _ratio(sums[..., POSITIVES], sums[..., WEIGHT])


def normalised_entropy(sums: np.ndarray) -> np.ndarray:
    """Log loss over that of always predicting the base rate: 1 is no better than that. NaN for one class.

    Reference: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    rate = base_rate(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return _ratio(log_loss(sums), entropy)


def calibration(sums: np.ndarray) -> np.ndarray:
    """Predicted over observed positives: 1 is right, above 1 too high. NaN without a positive."""
    return _ratio(sums[..., PREDICTED], sums[..., POSITIVES])


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """|calibration - 1|: how far the mean prediction is from the base rate, as a share of it. Lower is better."""
    return np.abs(calibration(sums) - 1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(below) > 0, above / below, np.nan)
