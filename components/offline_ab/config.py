"""Configuration of the comparison and of the rules that decide on a candidate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from models.section import Section, UserError
from models.tasks import TaskConfig, outputs

RuleMetric = Literal[
    "auc",
    "pr_auc",
    "gauc",
    "log_loss",
    "normalised_entropy",
    "calibration_error",
    "ece",
    "ndcg",
    "map",
    "recall",
    "value",
]
PER_REQUEST = ("ndcg", "map", "recall", "value")

EACH = "*"
"""As the value of a rule's slice: the rule holds for each value that has enough data."""


class Rule(Section):
    """What the interval of a difference must show for a candidate to go into service."""

    task: str = Field(description="Probability that it is about, without the 'p': ctr, cvr or ctcvr for example.")
    metric: RuleMetric = Field(
        description="Metric that is compared; ndcg, map, recall and value are at `evidence.at_k`, per request."
    )
    slice: dict[str, str] = Field(
        default={},
        description="Rows to look at, such as {device: phone}; all by default. '*' stands for each value with enough "
        "data. The columns must be one of evaluation.slices.",
    )
    better_by: NonNegativeFloat | None = Field(
        None, description="Superiority: the whole interval is better than the model in service by more than this."
    )
    not_worse_by: NonNegativeFloat | None = Field(
        None, description="Non-inferiority: the whole interval is above a loss of this much."
    )
    confidence: float | None = Field(
        None, gt=0.5, lt=1, description="Of the two-sided interval; `evidence.confidence` by default."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Rule:
        if (self.better_by is None) == (self.not_worse_by is None):
            raise ValueError("expected exactly one of better_by and not_worse_by")
        return self


class OffPolicyConfig(Section):
    """Columns that let the value of another ranking be estimated from logs with known propensities."""

    propensity: str = Field(description="Column with the probability with which the logging policy put the item first.")
    chosen: str = Field("chosen", description="Column that is 1 for the item that was put first, 0 for the others.")
    reward: str = Field(description="Label that is the reward of the item put first, such as click.")
    temperature: float | None = Field(
        None, gt=0, description="Rank by a softmax of the log-odds with this temperature; by the highest score if none."
    )
    clip: float = Field(20.0, gt=1, description="Largest weight in the clipped estimates.")
    minimum_effective_share: float = Field(
        0.01, gt=0, lt=1, description="Below this effective sample size over requests no value is given."
    )


class ArmConfig(Section):
    """Column of the arm of an experiment, and how traffic was meant to be split."""

    column: str = Field(description="Column with the name of the arm.")
    shares: dict[str, float] = Field(
        default={}, description="Planned traffic of each arm, in any unit; equal by default."
    )
    limit: float = Field(0.001, gt=0, lt=1, description="The check fails below this p-value.")


class EvidenceConfig(Section):
    """How a candidate is compared with the model in service on the same rows, and what must come out."""

    rules: tuple[Rule, ...] = Field(
        default=(), description="A candidate needs all of them, beside the gates. Without rules the gates decide."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the two-sided intervals.")
    replicates: int = Field(500, ge=50, le=20_000, description="Of the Poisson bootstrap by user.")
    seed: NonNegativeInt = Field(0, description="Of the bootstrap's weights.")
    minimum_users: PositiveInt = Field(100, description="A slice with fewer users has no interval.")
    minimum_positives: PositiveInt = Field(
        50, description="A slice with fewer positives, or fewer negatives, has no interval."
    )
    at_k: PositiveInt = Field(10, description="Places that NDCG, MAP, recall and value look at.")
    user: str = Field("user_id", description="Column by which the bootstrap resamples and GAUC groups.")
    request: str = Field("request_id", description="Column by which NDCG, MAP, recall and value group.")
    weight: str = Field(
        "weight", description="Column with the weight of each example; 1 where no example has this column."
    )
    price: str | None = Field(None, description="Feature with the price, for the value at k.")
    value: str | None = Field(
        None, description="Column with the value observed, such as purchase_value; price × label by default."
    )
    off_policy: OffPolicyConfig | None = Field(None, description="For logs with propensities.")
    arm: ArmConfig | None = Field(None, description="For logs with the arm of an experiment.")

    def columns(self) -> tuple[str, ...]:
        """Columns of the examples that it needs, beside labels and slices."""
        names = [self.user, self.request, self.weight, self.price, self.value]
        if self.off_policy:
            names += [self.off_policy.propensity, self.off_policy.chosen]
        if self.arm:
            names.append(self.arm.column)
        return tuple(dict.fromkeys(n for n in names if n is not None))

    def extra_columns(self) -> tuple[str, ...]:
        """The columns among them that no log has by itself."""
        known = ("user_id", "request_id", "item_id", "event_time", EvidenceConfig().weight)
        return tuple(name for name in self.columns() if name not in known)


def check_evidence(
    evidence: EvidenceConfig, tasks: tuple[TaskConfig, ...], slices: tuple[tuple[str, ...], ...]
) -> EvidenceConfig:
    """Refuses rules on what is not computed, and rules that repeat one.

    Raises:
      UserError: naming the rule.
    """
    known = {o.task: o for o in outputs(tasks)}
    for i, rule in enumerate(evidence.rules):
        where = f"evidence.rules[{i}]"
        if rule.task not in known:
            raise UserError(f"{where}.task: expected one of {', '.join(known)}, got '{rule.task}'")
        if rule.metric in PER_REQUEST and known[rule.task].given is not None:
            over_all = [task for task, o in known.items() if o.given is None]
            raise UserError(
                f"{where}: {rule.metric} is per request, over all impressions: expected a task of "
                f"{', '.join(over_all)}, got '{rule.task}'"
            )
        if rule.metric == "value" and (evidence.price is None or not _is_last(rule.task, tasks)):
            raise UserError(
                f"{where}: value needs evidence.price, and the task '{outputs(tasks)[-1].task}', got '{rule.task}'"
            )
        if rule.slice and set(rule.slice) not in [set(columns) for columns in slices]:
            found = "; ".join(", ".join(columns) for columns in slices) or "none"
            raise UserError(
                f"{where}.slice: expected the columns of one of evaluation.slices ({found}), got "
                f"{', '.join(rule.slice)}"
            )
        if rule in evidence.rules[:i]:
            raise UserError(f"{where}: the same rule stands there twice")
    if evidence.off_policy and evidence.off_policy.reward not in [t.label for t in tasks]:
        raise UserError(
            f"evidence.off_policy.reward: expected one of the labels {', '.join(t.label for t in tasks)}, got "
            f"'{evidence.off_policy.reward}'"
        )
    return evidence


def _is_last(task: str, tasks: tuple[TaskConfig, ...]) -> bool:
    return outputs(tasks)[-1].task == task
