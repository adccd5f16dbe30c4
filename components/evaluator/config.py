"""Configuration of the evaluation and the gates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, model_validator

from models.section import Section, UserError
from models.tasks import TaskConfig, outputs

Metric = Literal["auc", "log_loss", "calibration"]


class EvaluationConfig(Section):
    """What the candidate is judged on, beside all rows together."""

    slices: tuple[tuple[str, ...], ...] = Field(
        default=(), description="Groups of rows to look at: [[tab], [tab, gender]] is by tab, and by tab and gender."
    )
    more_metrics: tuple[Literal["normalised_entropy", "gauc"], ...] = Field(
        default=(),
        description="Metrics that TFMA computes beside its own; the comparison under `evidence` has them in any case.",
    )


class Gate(Section):
    """A condition for a candidate to go into service, on one metric of one probability."""

    task: str = Field(description="Probability that it is about, without the 'p': ctr, cvr or ctcvr for example.")
    metric: Metric = Field(description="Log loss is in nats; calibration is the mean prediction over the base rate.")
    at_least: float | None = Field(None, description="Smallest value that passes.")
    at_most: float | None = Field(None, description="Largest value that passes.")
    not_worse_by: NonNegativeFloat | None = Field(
        None, description="How much worse than the model in service it may be; not looked at without one."
    )

    @property
    def is_floor(self) -> bool:
        """Whether it says something without a model in service."""
        return self.at_least is not None or self.at_most is not None

    @model_validator(mode="after")
    def _says_something(self) -> Gate:
        if not self.is_floor and self.not_worse_by is None:
            raise ValueError("expected at least one of at_least, at_most and not_worse_by")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"expected at_least <= at_most, got {self.at_least:g} and {self.at_most:g}")
        if self.metric == "calibration" and self.not_worse_by is not None:
            raise ValueError("calibration is best at 1, neither high nor low: expected at_least and at_most")
        return self


def check_gates(gates: tuple[Gate, ...], tasks: tuple[TaskConfig, ...]) -> tuple[Gate, ...]:
    """Refuses gates on unknown probabilities, and two on the same metric.

    Raises:
      UserError: naming the gate.
    """
    known = [o.task for o in outputs(tasks)]
    seen: set[tuple[str, str]] = set()
    for i, gate in enumerate(gates):
        if gate.task not in known:
            raise UserError(f"gates[{i}].task: expected one of {', '.join(known)}, got '{gate.task}'")
        if (gate.task, gate.metric) in seen:
            raise UserError(f"gates[{i}]: {gate.task} {gate.metric} has a gate already; put its rules into that one")
        seen.add((gate.task, gate.metric))
    return gates
