"""The rules of the gate, and the verdict that they come to."""

from __future__ import annotations

from collections.abc import Sequence

from components.offline_ab.comparison import smallest_detectable, standard_normal_bound
from components.offline_ab.config import EACH, PER_REQUEST, EvidenceConfig, Rule
from components.offline_ab.document import Decision, Estimate, MetricResult, Outcome, RuleResult


def judge(
    results: Sequence[MetricResult], config: EvidenceConfig, rules: Sequence[Rule] | None = None
) -> tuple[Decision, list[str], list[RuleResult]]:
    """Holds every rule against its interval.

    All rules must pass, so no correction for their number is due: each added rule makes it harder for a candidate that
    is not better to be promoted (an intersection-union test).

    Args:
      results: of `compare_metrics`, with a baseline.
      config: confidence and support.
      rules: those of the configuration by default.

    Returns:
      promote where all passed; not_enough_data where some rule could not be decided for lack of data and none failed;
      keep otherwise. Then the reasons, a line each, and the rules' results.
    """
    found = [r for rule in (config.rules if rules is None else rules) for r in _judge(rule, results, config)]
    if not found:
        return "promote", ["no rules are set under evidence.rules: nothing was asked of the comparison"], []
    against = [r for r in found if r.outcome in ("failed", "undecided")]
    lacking = [r for r in found if r.outcome == "not_enough_data"]
    if against:
        return "keep", [r.reason for r in [*against, *lacking]], found
    if lacking:
        return "not_enough_data", [r.reason for r in lacking], found
    return "promote", [r.reason for r in found], found


def _judge(rule: Rule, results: Sequence[MetricResult], config: EvidenceConfig) -> list[RuleResult]:
    metric = f"{rule.metric}@{config.at_k}" if rule.metric in PER_REQUEST else rule.metric
    of_metric = [r for r in results if (r.task, r.metric) == (rule.task, metric) and _matches(rule.slice, r.slice)]
    if EACH in rule.slice.values():
        of_metric = [r for r in of_metric if r.enough]
    if not of_metric:
        return [_without_data(rule, metric, config)]
    return [_hold(rule, r, config) for r in of_metric]


def _matches(asked: dict[str, str], found: dict[str, str]) -> bool:
    return set(asked) == set(found) and all(value in (EACH, found[column]) for column, value in asked.items())


def _hold(rule: Rule, result: MetricResult, config: EvidenceConfig) -> RuleResult:
    confidence = rule.confidence or config.confidence
    text = _text(rule, result.metric, result.slice)
    gain = result.gain
    margin = rule.better_by if rule.better_by is not None else rule.not_worse_by
    detectable = None
    value = None if gain is None else gain.value
    if value is None or result.standard_error is None:
        found = f"{result.support.users:,} users and {result.support.positives:,} positives"
        needed = f"{config.minimum_users:,} users and {config.minimum_positives:,} positives and negatives"
        outcome: Outcome = "not_enough_data"
        reason = f"{text}: not enough data, {found}; expected at least {needed}"
    else:
        half = standard_normal_bound(confidence) * result.standard_error
        gain = Estimate(value=value, low=value - half, high=value + half)
        detectable = smallest_detectable(result.standard_error, confidence)
        outcome, reason = _decide(rule, text, value, half, detectable, confidence)
    return RuleResult(
        text=text,
        task=rule.task,
        metric=result.metric,
        slice=result.slice,
        kind="superiority" if rule.better_by is not None else "non_inferiority",
        margin=margin,
        confidence=confidence,
        gain=gain,
        outcome=outcome,
        reason=reason,
        smallest_detectable=detectable,
        support=result.support,
    )


def _decide(
    rule: Rule, text: str, gain: float, half: float, detectable: float, confidence: float
) -> tuple[Outcome, str]:
    superiority = rule.better_by is not None
    bound = float(rule.better_by or 0) if superiority else -float(rule.not_worse_by or 0)
    interval = f"{confidence * 100:g} % interval {gain - half:+.4g} to {gain + half:+.4g}"
    found = f"gain {gain:+.4g}, {interval}"
    if gain - half > bound or (half == 0 and gain == bound and not superiority):
        return "passed", f"{text}: passed, {found}"
    if gain + half < bound:
        return "failed", f"{text}: failed, {found}"
    if superiority:
        return "undecided", (
            f"{text}: not shown, {found}; the smallest difference that this data would show is {detectable:.4g}"
        )
    # Even a candidate as good as the model in service would often not have passed on so little data.
    if detectable > -bound:
        return "not_enough_data", (
            f"{text}: not enough data, {found}; a loss of {-bound:g} is below the smallest difference that this data "
            f"would show, {detectable:.4g}"
        )
    return "undecided", f"{text}: not ruled out, {found}"


def _without_data(rule: Rule, metric: str, config: EvidenceConfig) -> RuleResult:
    text = _text(rule, metric, rule.slice)
    what = "no slice has" if EACH in rule.slice.values() else "there are not"
    needed = f"{config.minimum_users:,} users and {config.minimum_positives:,} positives and negatives"
    return RuleResult(
        text=text,
        task=rule.task,
        metric=metric,
        slice=rule.slice,
        kind="superiority" if rule.better_by is not None else "non_inferiority",
        margin=rule.better_by if rule.better_by is not None else rule.not_worse_by,
        confidence=rule.confidence or config.confidence,
        gain=None,
        outcome="not_enough_data",
        reason=f"{text}: not enough data, {what} {needed}",
    )


def _text(rule: Rule, metric: str, where: dict[str, str]) -> str:
    subject = f"{rule.task} {metric}"
    if where:
        subject += " where " + ", ".join(f"{column} = {value}" for column, value in where.items())
    if rule.better_by is not None:
        return f"{subject} better by more than {rule.better_by:g}"
    return f"{subject} not worse by {rule.not_worse_by:g}"
