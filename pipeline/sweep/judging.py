"""Exact metrics of a probability on the rows on which it is judged."""

from __future__ import annotations

import numpy as np

from models.metrics.exact import auc, score_sums
from models.metrics.pointwise import base_rate, calibration, log_loss, pointwise_sums
from models.tasks import Output
from pipeline.sweep.rows import Columns


def judge(output: Output, columns: Columns, scores: np.ndarray) -> dict[str, float | int | None]:
    """Rows, base rate, AUC, log loss (nats) and calibration (mean prediction over base rate) of an output.

    Args:
      output: which rows count, and what is right.
      columns: the rows.
      scores: [rows], the probabilities.

    Returns:
      None stands for what the rows do not decide, such as the AUC where all labels are equal.
    """
    counted = counted_by(output, columns)
    labels, kept = np.asarray(columns[output.label])[counted], scores[counted]
    sums = pointwise_sums(labels, kept)
    found = {
        "base_rate": float(base_rate(sums)),
        "auc": auc(score_sums(labels, kept)),
        "log_loss": float(log_loss(sums)),
        "calibration": float(calibration(sums)),
    }
    return {"rows": len(labels), **{name: value if np.isfinite(value) else None for name, value in found.items()}}


def counted_by(output: Output, columns: Columns) -> np.ndarray:
    """The rows on which an output is judged, bool [rows]."""
    if output.given is None:
        return np.ones(len(columns[output.label]), bool)
    return np.asarray(columns[output.given]) > 0
