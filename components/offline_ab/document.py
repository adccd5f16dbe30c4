"""What a comparison found, as one JSON document: the gate, the summary and the page read it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DOCUMENT_FILE = "evidence.json"

Decision = Literal["promote", "keep", "not_enough_data"]
Better = Literal["higher", "lower"]
Outcome = Literal["passed", "failed", "undecided", "not_enough_data"]
Side = Literal["baseline", "candidate"]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A finite number; None where it is not defined, such as the AUC of one class."""


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Part):
    """A value with its interval at the comparison's confidence; a value alone where there is none."""

    value: Number
    low: Number = None
    high: Number = None


class Scorer(Part):
    """One of the two sides.

    Attributes:
      name: for people, such as 'version 3'.
      source: folder of the SavedModel, or 'column NAME' for scores that were logged.
      version: number in the model repository, where it has one.
    """

    name: str
    source: str
    version: int | None = None


class Support(Part):
    """How much data a figure rests on. Rows are those on which the task is judged; positives are their labels of 1."""

    rows: int
    users: int
    positives: int


class MetricResult(Part):
    """A metric of a task on a slice.

    Attributes:
      task: probability without the 'p', such as 'ctcvr'.
      metric: name of the metric, such as 'auc' or 'ndcg@10'.
      slice: values of the slice's columns; empty for all rows.
      better: which way is better; None where neither is (calibration: 1 is best, and calibration_error says how far).
      baseline, candidate: values; baseline is None without a model to compare with.
      difference: candidate minus baseline, paired and clustered by user; None without a baseline.
      standard_error: of the difference.
      p_value: of 'no difference', two-sided, from the standard error (normal).
      p_adjusted: the same after Holm's correction over all slices of this task and metric; None for all rows together.
      smallest_detectable: the smallest true difference that this data would show at the comparison's confidence in
        80 % of repetitions.
      support: what it rests on.
      enough: whether the support reaches the minimum; below it there are no intervals.
      groups_left_out: groups (users or requests) that the metric cannot judge, such as users with one class.
    """

    task: str
    metric: str
    slice: dict[str, str] = {}
    better: Better | None
    baseline: Estimate | None
    candidate: Estimate
    difference: Estimate | None = None
    standard_error: Number = None
    p_value: Number = None
    p_adjusted: Number = None
    smallest_detectable: Number = None
    support: Support
    enough: bool = True
    groups_left_out: int = 0

    @property
    def gain(self) -> Estimate | None:
        """The difference turned so that more is better; None where neither way is, or without a baseline."""
        if self.difference is None or self.better is None:
            return None
        if self.better == "higher":
            return self.difference
        d = self.difference
        return Estimate(value=_minus(d.value), low=_minus(d.high), high=_minus(d.low))


class RuleResult(Part):
    """What a rule of the gate came to.

    Attributes:
      text: the rule in words, such as 'ctcvr auc: better by more than 0'.
      task, metric, slice: what it looks at.
      kind: 'superiority' or 'non_inferiority'.
      margin: in units of the metric, never negative.
      confidence: of the interval.
      gain: by how much the candidate is better (turned so that more is better), with its interval at `confidence`.
      outcome: 'passed' where the whole interval is beyond the margin's bound, 'failed' where it is on the other side,
        'undecided' in between, 'not_enough_data' where the support is too small or the data could not have shown it.
      reason: why, in a sentence.
      smallest_detectable: as in MetricResult, at the rule's confidence.
      support: what it rests on.
    """

    text: str
    task: str
    metric: str
    slice: dict[str, str] = {}
    kind: Literal["superiority", "non_inferiority"]
    margin: float
    confidence: float
    gain: Estimate | None
    outcome: Outcome
    reason: str
    smallest_detectable: Number = None
    support: Support | None = None


class Bin(Part):
    """Rows whose scores lie in [low, high]: their weight, mean score, and share of positives with a 95 % interval."""

    low: float
    high: float
    weight: float
    predicted: Number
    observed: Estimate


class CalibrationCurve(Part):
    """Reliability of one side's scores for a task, in bins of about equal weight."""

    task: str
    side: Side
    bins: tuple[Bin, ...]


class ScoreHistogram(Part):
    """Weight of the rows by score, of both sides on the same edges (even in the logarithm of the odds)."""

    task: str
    edges: tuple[float, ...] = Field(description="One more than there are bins.")
    baseline: tuple[float, ...] = Field(description="Empty without a baseline.")
    candidate: tuple[float, ...]


class Lift(Part):
    """Rate of positives in each tenth of the rows, the highest scores first, over the rate of all rows."""

    task: str
    side: Side
    lift: tuple[Number, ...]
    rate: tuple[Number, ...]


class DeLong(Part):
    """AUC's difference with DeLong's interval, which takes rows for independent: a quick check, not the evidence."""

    task: str
    difference: Estimate
    p_value: Number


class Arm(Part):
    arm: str
    units: int
    expected_share: float


class SampleRatio(Part):
    """Whether arms have the shares that they were meant to have (chi-square test).

    Attributes:
      column: column of the arm.
      units: what was counted: 'users', or 'rows'.
      statistic: chi-square statistic.
      passed: whether the p-value is above the limit; below it something is wrong with the traffic or the logs.
    """

    column: str
    units: str
    arms: tuple[Arm, ...]
    statistic: float
    p_value: float
    limit: float
    passed: bool


class PolicyValue(Part):
    """Off-policy estimate of the mean reward per request.

    Attributes:
      estimator: 'ips', 'snips', 'dr', or their clipped forms 'clipped_ips' and 'clipped_dr'.
      reward: label or value column that is the reward.
      logged: mean reward of what was shown, for comparison.
      baseline, candidate, difference: values of ranking by the one and the other; None where refused.
      effective_sample_size: of the candidate's weights, (Σw)² / Σw².
      effective_share: the same over the number of requests.
      largest_weight: of the candidate.
      requests: number of requests.
      refused: why no value is given; None where it is.
    """

    estimator: str
    reward: str
    logged: Number
    baseline: Estimate | None
    candidate: Estimate | None
    difference: Estimate | None
    effective_sample_size: float
    effective_share: float
    largest_weight: float
    requests: int
    refused: str | None = None


class Data(Part):
    """The rows that both sides scored.

    Attributes:
      first_time_ms, last_time_ms: of the exposures (epoch ms); None where the examples have no time.
      positives: by label.
      missing: by label, rows without it.
      source: where the rows are from.
    """

    rows: int
    users: int
    requests: int
    first_time_ms: int | None
    last_time_ms: int | None
    positives: dict[str, int]
    missing: dict[str, int]
    source: str


class Settings(Part):
    """How the intervals were made."""

    confidence: float
    replicates: int
    seed: int
    minimum_users: int
    minimum_positives: int
    correction: Literal["holm"] = "holm"


class Evidence(Part):
    """A comparison of a candidate with a baseline on the same rows.

    Attributes:
      verdict: promote, keep, or not_enough_data.
      reasons: why, a line each.
      rules: of the gate, in the order of the configuration.
      metrics: all rows first, then slices; tasks in the order of the chain.
      slices_left_out: small slices that were not looked at, because there were too many of their kind.
      links: name of an artifact to its path.
      format: grows when the document changes in a way that readers notice.
    """

    verdict: Decision
    reasons: tuple[str, ...]
    baseline: Scorer | None
    candidate: Scorer
    data: Data
    settings: Settings
    rules: tuple[RuleResult, ...]
    metrics: tuple[MetricResult, ...]
    slices_left_out: int = 0
    calibration_curves: tuple[CalibrationCurve, ...] = ()
    histograms: tuple[ScoreHistogram, ...] = ()
    lift: tuple[Lift, ...] = ()
    delong: tuple[DeLong, ...] = ()
    sample_ratio: SampleRatio | None = None
    off_policy: tuple[PolicyValue, ...] = ()
    links: dict[str, str] = {}
    format: int = 1

    def write(self, folder: str | Path) -> Path:
        """Writes it as `evidence.json` in a folder, and returns the file."""
        path = Path(folder) / DOCUMENT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        return path


def read_evidence(folder: str | Path) -> Evidence:
    """Reads the document of a comparison from its folder (or the file itself)."""
    path = Path(folder)
    return Evidence.model_validate_json((path / DOCUMENT_FILE if path.is_dir() else path).read_text(encoding="utf-8"))


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
