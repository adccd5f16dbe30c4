"""Configuration of the check of an exported model."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from models.section import Duration, Section


class LatencyBudget(Section):
    """How long a request with so many candidates may take in the model, without network and queue."""

    candidates: PositiveInt = Field(description="Candidates of the request.")
    p50: Duration | None = Field(None, description="Limit of the median; none by default.")
    p99: Duration | None = Field(
        None,
        description="Limit of the 99th percentile; none by default. A machine that is shared needs a generous one.",
    )


class ServingCheckConfig(Section):
    """What an exported model must show before it may go into service."""

    rows: PositiveInt = Field(1000, description="Rows of the evaluation days that every signature scores.")
    tolerance: float = Field(
        1e-5, gt=0, description="How far a probability may be from the trainer's; more with `mixed_bfloat16`."
    )
    latency: tuple[LatencyBudget, ...] = Field(
        (LatencyBudget(candidates=100), LatencyBudget(candidates=300), LatencyBudget(candidates=1000)),
        description="Sizes of requests to `rank` that are timed and warmed up, and their limits.",
    )
    runs: PositiveInt = Field(100, description="Requests of each size that are timed, within at most a second.")
