"""Compares two sides on the same rows: metrics per task and slice, with intervals of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from components.offline_ab.config import EvidenceConfig
from components.offline_ab.document import Estimate, MetricResult, Support
from components.offline_ab.measures import Measure, Rows, measures
from components.offline_ab.rows import PRICE, VALUE, ScoredRows
from models.metrics import Statistic, replicate
from models.tasks import Output

MOST_SLICES = 100
"""Slices of one kind that are looked at, the largest; more would be noise in the report."""

POWER = 0.8


@dataclass(frozen=True)
class _Case:
    """One task on one slice: its metrics for each side, and the statistic of all of them together."""

    output: Output
    slice: dict[str, str]
    support: Support
    enough: bool
    sides: tuple[tuple[Measure, ...], ...]
    statistic: Statistic


def compare_metrics(
    rows: ScoredRows, outputs: Sequence[Output], slices: Sequence[Sequence[str]], config: EvidenceConfig
) -> tuple[list[MetricResult], int]:
    """Metrics of every task, on all rows and then by slice.

    Values are exact. Intervals are value ± z × standard deviation over the replicates of a Poisson bootstrap by user,
    the same weights for both sides, so that differences are paired.

    Args:
      rows: what both sides scored; one side alone gives its values.
      outputs: the probabilities to judge.
      slices: columns to cut by.
      config: confidence, replicates, minimum support.

    Returns:
      The results, and the number of slices left out because there were more than MOST_SLICES of a kind.
    """
    hashes, users = np.unique(rows.users, return_inverse=True)
    results: list[MetricResult] = []
    left_out = 0
    for i, output in enumerate(outputs):
        counted = np.flatnonzero(rows.counted(output))
        cuts: list[tuple[dict[str, str], np.ndarray]] = [({}, counted)]
        for columns in slices:
            cut, more = rows.of_slice(columns, counted, MOST_SLICES)
            cuts += cut
            left_out += more
        last = i == len(outputs) - 1
        # One kind of slice at a time: their rows together are all rows once.
        for group in _portions(cuts, len(counted)):
            cases = [_case(rows, output, where, of, users, config, last) for where, of in group]
            judged = [c for c in cases if c.enough]
            draws = replicate([c.statistic for c in judged], hashes, config.replicates, config.seed)
            by_case = dict(zip(map(id, judged), draws))
            for case in cases:
                results += _results(case, by_case.get(id(case)), config)
    return _corrected(_ordered(results, outputs)), left_out


def standard_normal_bound(confidence: float) -> float:
    """z of a two-sided interval."""
    return float(norm.ppf(0.5 + confidence / 2))


def smallest_detectable(standard_error: float, confidence: float) -> float:
    """The true difference whose interval is on one side of 0 in 80 % of repetitions."""
    return (standard_normal_bound(confidence) + float(norm.ppf(POWER))) * standard_error


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values: the chance of one false finding among all stays below the level, however they depend.

    Slices overlap and share users, so nothing is known of their dependence; Holm's step-down needs no assumption on
    it, where Benjamini and Hochberg's would. Reference: Holm, Scandinavian Journal of Statistics, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _portions(
    cuts: list[tuple[dict[str, str], np.ndarray]], rows: int
) -> list[list[tuple[dict[str, str], np.ndarray]]]:
    """Slices in groups of at most about as many rows as there are, which bounds the memory."""
    portions: list[list[tuple[dict[str, str], np.ndarray]]] = []
    size = 0
    for where, of in cuts:
        if not portions or size + len(of) > rows:
            portions.append([])
            size = 0
        portions[-1].append((where, of))
        size += len(of)
    return portions


def _case(
    rows: ScoredRows,
    output: Output,
    where: dict[str, str],
    of: np.ndarray,
    users: np.ndarray,
    config: EvidenceConfig,
    last: bool,
) -> _Case:
    labels = rows.labels[output.label][of].astype(np.float64)
    units, codes = np.unique(users[of], return_inverse=True)
    over_all = output.given is None
    priced = over_all and last and PRICE in rows.others
    of_rows = Rows(
        labels=labels,
        weights=np.ones(len(of)) if rows.weights is None else rows.weights[of].astype(np.float64),
        users=codes,
        user_count=len(units),
        requests=rows.requests[of] if over_all else None,
        prices=np.nan_to_num(rows.others[PRICE][of].astype(np.float64)) if priced else None,
        values=np.nan_to_num(rows.others[VALUE][of].astype(np.float64)) if priced and VALUE in rows.others else None,
    )
    positives = int((labels == 1).sum())
    sides = tuple(
        tuple(measures(of_rows, rows.scores[side][output.name][of].astype(np.float64), config.at_k))
        for side in rows.sides
    )
    together = [m for side in sides for m in side]
    enough = len(units) >= config.minimum_users and min(positives, len(of) - positives) >= config.minimum_positives
    return _Case(
        output=output,
        slice=where,
        support=Support(rows=len(of), users=len(units), positives=positives),
        enough=enough,
        sides=sides,
        statistic=_together(units, together),
    )


def _together(units: np.ndarray, of: list[Measure]) -> Statistic:
    # Measures of one side share columns, which are then multiplied once.
    places: dict[int, slice] = {}
    columns: list[np.ndarray] = []
    width = 0
    for m in of:
        if id(m.columns) not in places:
            places[id(m.columns)] = slice(width, width + m.columns.shape[1])
            columns.append(m.columns)
            width += m.columns.shape[1]
    parts = [(places[id(m.columns)], m.value) for m in of]

    def value(totals: np.ndarray) -> np.ndarray:
        return np.stack([f(totals[..., part]) for part, f in parts], axis=-1)

    return Statistic(units, np.concatenate(columns, axis=1), value)


def _results(case: _Case, draws: np.ndarray | None, config: EvidenceConfig) -> list[MetricResult]:
    values = case.statistic.value(case.statistic.columns.sum(axis=0))
    count = len(case.sides[0])
    z = standard_normal_bound(config.confidence)
    results = []
    for i, measure in enumerate(case.sides[-1]):
        of_candidate = i + count * (len(case.sides) - 1)
        compared = len(case.sides) == 2
        candidate = _estimate(values[of_candidate], draws, of_candidate, z)
        baseline = _estimate(values[i], draws, i, z) if compared else None
        difference, error = None, None
        if compared:
            change = float(values[of_candidate] - values[i])
            error = None if draws is None else _deviation(draws[:, of_candidate] - draws[:, i])
            difference = _around(change, error, z)
        results.append(
            MetricResult(
                task=case.output.task,
                metric=measure.name,
                slice=case.slice,
                better=measure.better,
                baseline=baseline,
                candidate=candidate,
                difference=difference,
                standard_error=error,
                p_value=None if error is None or difference is None else _p_value(difference.value, error),
                smallest_detectable=None if error is None else smallest_detectable(error, config.confidence),
                support=case.support,
                enough=case.enough,
                groups_left_out=measure.left_out,
            )
        )
    return results


def _estimate(value: float, draws: np.ndarray | None, column: int, z: float) -> Estimate:
    error = None if draws is None else _deviation(draws[:, column])
    return _around(float(value), error, z)


def _deviation(values: np.ndarray) -> float | None:
    """Standard deviation over the replicates in which the metric is defined; None where it hardly ever is."""
    defined = values[np.isfinite(values)]
    return float(defined.std(ddof=1)) if 2 * len(defined) > len(values) else None


def _around(value: float, error: float | None, z: float) -> Estimate:
    if error is None:
        return Estimate(value=value)
    return Estimate(value=value, low=value - z * error, high=value + z * error)


def _p_value(difference: float | None, error: float) -> float | None:
    if difference is None:
        return None
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error))


def _corrected(results: list[MetricResult]) -> list[MetricResult]:
    families: dict[tuple[str, str], list[int]] = {}
    for i, r in enumerate(results):
        if r.slice and r.p_value is not None:
            families.setdefault((r.task, r.metric), []).append(i)
    for family in families.values():
        adjusted = holm(np.array([results[i].p_value for i in family], np.float64))
        for i, p in zip(family, adjusted):
            results[i] = results[i].model_copy(update={"p_adjusted": float(p)})
    return results


def _ordered(results: list[MetricResult], outputs: Sequence[Output]) -> list[MetricResult]:
    """All rows first; then by slice; tasks in the order of the chain."""
    order = {o.task: i for i, o in enumerate(outputs)}
    return sorted(results, key=lambda r: (bool(r.slice), list(r.slice), list(r.slice.values()), order[r.task]))
