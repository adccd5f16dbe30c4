"""What a page draws of two sides: reliability, distribution of scores, lift by tenth, and DeLong's check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from components.offline_ab.comparison import standard_normal_bound
from components.offline_ab.document import (
    Bin,
    CalibrationCurve,
    DeLong,
    Estimate,
    Lift,
    ScoreHistogram,
    Side,
)
from components.offline_ab.rows import ScoredRows
from models.metrics import bin_edges, delong, histogram_sums, lift_by_tenth, reliability
from models.metrics.histogram import BINS
from models.tasks import Output

CURVE_BINS = 20
HISTOGRAM_BINS = 40


def curves(
    rows: ScoredRows, outputs: Sequence[Output], confidence: float
) -> tuple[list[CalibrationCurve], list[ScoreHistogram], list[Lift], list[DeLong]]:
    """Curves of each task over all rows on which it is judged; tasks without a row, or of one class, have none."""
    calibration: list[CalibrationCurve] = []
    histograms: list[ScoreHistogram] = []
    lifts: list[Lift] = []
    checks: list[DeLong] = []
    for output in outputs:
        of = rows.counted(output)
        labels = rows.labels[output.label][of]
        if len(np.unique(labels)) < 2:
            continue
        weights = None if rows.weights is None else rows.weights[of]
        sums = {side: histogram_sums(labels, rows.scores[side][output.name][of], weights) for side in rows.sides}
        calibration += [_calibration(output.task, side, s) for side, s in sums.items()]
        lifts += [_lift(output.task, side, s) for side, s in sums.items()]
        histograms.append(_histogram(output.task, sums))
        if len(sums) == 2:
            baseline, candidate = (rows.scores[side][output.name][of] for side in rows.sides)
            change, error = delong(labels, baseline, candidate, weights)
            half = standard_normal_bound(confidence) * error
            p_value = float(2 * norm.sf(abs(change) / error)) if error > 0 else 1.0
            estimate = Estimate(value=change, low=change - half, high=change + half)
            checks.append(DeLong(task=output.task, difference=estimate, p_value=p_value))
    return calibration, histograms, lifts, checks


def _calibration(task: str, side: Side, sums: np.ndarray) -> CalibrationCurve:
    curve = reliability(sums, CURVE_BINS)
    bins = []
    for i, (weight, predicted, observed) in enumerate(zip(curve.weight, curve.predicted, curve.observed)):
        low, high = _wilson(float(observed), float(weight))
        bins.append(
            Bin(
                low=float(curve.edges[i]),
                high=float(curve.edges[i + 1]),
                weight=float(weight),
                predicted=float(predicted),
                observed=Estimate(value=float(observed), low=low, high=high),
            )
        )
    return CalibrationCurve(task=task, side=side, bins=tuple(bins))


def _wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927), rows taken for independent."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def _histogram(task: str, sums: dict[Side, np.ndarray]) -> ScoreHistogram:
    weight = {side: s[0] + s[1] for side, s in sums.items()}
    used = np.flatnonzero(sum(weight.values()))
    first, end = int(used[0]), int(used[-1]) + 1
    cuts = np.unique(np.linspace(first, end, HISTOGRAM_BINS + 1).round().astype(int))
    counts = {side: np.add.reduceat(w, cuts[:-1])[: len(cuts) - 1] for side, w in weight.items()}
    for side, w in weight.items():  # reduceat's last piece runs to the end of the grid, which is empty
        counts[side][-1] = w[cuts[-2] : cuts[-1]].sum()
    edges = bin_edges(BINS)[cuts]
    return ScoreHistogram(
        task=task,
        edges=tuple(map(float, edges)),
        baseline=tuple(map(float, counts.get("baseline", ()))),
        candidate=tuple(map(float, counts["candidate"])),
    )


def _lift(task: str, side: Side, sums: np.ndarray) -> Lift:
    rate, lift = lift_by_tenth(sums)
    return Lift(task=task, side=side, lift=tuple(map(float, lift)), rate=tuple(map(float, rate)))
