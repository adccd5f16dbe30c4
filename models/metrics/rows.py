"""The rows that a metric counts."""

from __future__ import annotations

import numpy as np


def counted_rows(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Drops rows whose label is missing (NaN) or whose weight is 0, and brings the others to float64.

    Args:
      labels: 0 or 1, NaN where missing, [rows].
      scores: probabilities, [rows].
      weights: example weights >= 0; 1 for all by default.

    Returns:
      labels, scores and weights of the rows that count, and the mask of these rows.

    Raises:
      ValueError: for lengths that differ, labels other than 0 and 1, scores outside of [0, 1] and negative weights,
        with the first such row.
    """
    labels, scores = np.asarray(labels, np.float64).reshape(-1), np.asarray(scores, np.float64).reshape(-1)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64).reshape(-1)
    if not len(labels) == len(scores) == len(weights):
        raise ValueError(
            f"expected as many labels, scores and weights, got {len(labels)}, {len(scores)} and {len(weights)}"
        )
    kept = ~np.isnan(labels) & (weights != 0)
    if not kept.all():
        labels, scores, weights = labels[kept], scores[kept], weights[kept]
    _refuse("labels", "0 or 1", labels, (labels == 0) | (labels == 1), kept)
    _refuse("scores", "a probability from 0 to 1", scores, (scores >= 0) & (scores <= 1), kept)
    _refuse("weights", "a finite number of at least 0", weights, (weights > 0) & np.isfinite(weights), kept)
    return labels, scores, weights, kept


def _refuse(name: str, expected: str, values: np.ndarray, good: np.ndarray, kept: np.ndarray) -> None:
    if not good.all():
        first = int(np.argmin(good))
        row = int(np.flatnonzero(kept)[first])
        raise ValueError(f"{name}: expected {expected}, got {values[first]:g} in row {row}")
