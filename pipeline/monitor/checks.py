"""Holds what the model in service does now against what it did when it was judged.

The two are measured on different days, so a difference's variance is the sum of both. (Users who come back make the two
alike, which only makes the intervals too wide.) A limit counts as passed where the whole interval lies beyond it, and
for slices where it would do so after Bonferroni's correction for their number: a watch that runs every day must
not cry wolf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.offline_ab.comparison import standard_normal_bound
from components.offline_ab.document import Estimate, Evidence, MetricResult
from pipeline.monitor.config import MonitorConfig

State = Literal["fine", "alert", "unknown"]


@dataclass(frozen=True)
class Check:
    """One figure against its limit.

    Attributes:
      task, metric: which; the metric of calibration is 'calibration', of a feature's distribution 'drift'.
      slice: values of the slice's columns; empty for all rows.
      then, now: at the evaluation before the promotion, and on the days looked at; drift has no `then`.
      change: by how much it is better now, with its interval; of calibration its distance from 1, of drift the
        distance itself.
      limit: what is allowed.
      state: 'unknown' where one of the two had too little data for an interval.
    """

    task: str
    metric: str
    slice: dict[str, str]
    then: Estimate | None
    now: Estimate
    change: Estimate | None
    limit: float | None
    state: State

    @property
    def name(self) -> str:
        where = ", ".join(f"{column} = {value}" for column, value in self.slice.items())
        return f"{self.task} {self.metric}" + (f" where {where}" if where else "")


def metric_checks(then: Evidence, now: Evidence, config: MonitorConfig) -> list[Check]:
    """Every metric that has a limit, for each task and each slice that both have."""
    before = {(r.task, r.metric.split("@")[0], *r.slice.items()): r for r in then.metrics}
    confidence = now.settings.confidence
    cases = [
        (r, before[key])
        for r in now.metrics
        if (key := (r.task, r.metric.split("@")[0], *r.slice.items())) in before and key[1] in config.not_worse_by
    ]
    found = []
    for r, earlier in cases:
        looks = sum(1 for other, _ in cases if bool(r.slice) and _family(other) == _family(r))
        limit = config.not_worse_by[r.metric.split("@")[0]]
        change = _gain(r, earlier, then.settings.confidence, confidence, max(1, looks))
        state: State = "unknown"
        if change is not None and change.high is not None:
            state = "alert" if change.high < -limit else "fine"
        found.append(Check(r.task, r.metric, r.slice, earlier.candidate, r.candidate, change, limit, state))
    return found


def calibration_checks(then: Evidence, now: Evidence, config: MonitorConfig) -> Iterator[Check]:
    """How far the mean prediction is from the base rate now, for each task over all rows."""
    before = {r.task: r.candidate for r in then.metrics if r.metric == "calibration" and not r.slice}
    for r in now.metrics:
        if r.metric != "calibration" or r.slice:
            continue
        e, state = r.candidate, "unknown"
        if e.low is not None and e.high is not None:
            state = "alert" if e.low > 1 + config.calibration or e.high < 1 - config.calibration else "fine"
        off = None if e.value is None else e.value - 1
        change = Estimate(
            value=off, low=None if e.low is None else e.low - 1, high=None if e.high is None else e.high - 1
        )
        yield Check(r.task, r.metric, {}, before.get(r.task), e, change, config.calibration, state)  # type: ignore[arg-type]


def drift_checks(distances: Mapping[str, float], limits: Mapping[str, float]) -> list[Check]:
    """The distance of each feature's distribution, the largest share of its limit first; those without a limit last."""
    found = []
    for name, distance in distances.items():
        limit = limits.get(name)
        here = Estimate(value=distance)
        state: State = "alert" if limit is not None and distance > limit else "fine"
        found.append(Check(name, "drift", {}, None, here, here, limit, state))
    return sorted(found, key=lambda c: (c.limit is None, -(c.now.value or 0.0) / (c.limit or 1.0)))


def missing_slices(then: Evidence, now: Evidence) -> int:
    """Slices of now that the evaluation before the promotion did not have."""
    known = {tuple(r.slice.items()) for r in then.metrics}
    return len({tuple(r.slice.items()) for r in now.metrics} - known)


def alerts(checks: Sequence[Check]) -> list[Check]:
    """The checks that raise an alert, those of slices last."""
    return sorted((c for c in checks if c.state == "alert"), key=lambda c: bool(c.slice))


def _family(r: MetricResult) -> tuple[str, str, bool]:
    return r.task, r.metric, bool(r.slice)


def _gain(
    now: MetricResult, then: MetricResult, confidence_then: float, confidence: float, looks: int
) -> Estimate | None:
    """How much better it is now; None where it cannot be said which way is better."""
    if now.better is None or now.candidate.value is None or then.candidate.value is None:
        return None
    sign = 1 if now.better == "higher" else -1
    value = sign * (now.candidate.value - then.candidate.value)
    errors = [_standard_error(then.candidate, confidence_then), _standard_error(now.candidate, confidence)]
    if errors[0] is None or errors[1] is None:
        return Estimate(value=value)
    half = standard_normal_bound(1 - (1 - confidence) / looks) * float((errors[0] ** 2 + errors[1] ** 2) ** 0.5)
    return Estimate(value=value, low=value - half, high=value + half)


def _standard_error(found: Estimate, confidence: float) -> float | None:
    if found.low is None or found.high is None:
        return None
    return (found.high - found.low) / (2 * standard_normal_bound(confidence))
