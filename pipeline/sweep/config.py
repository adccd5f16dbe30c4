"""Configuration of a sweep: the grid, and what it is compared with."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from models.balancing import AnyBalancer
from models.presets import ModelConfig
from models.section import Section
from models.tasks import TaskConfig

_PRESETS = ("esmm", "shared_bottom", "mmoe", "ple")
_BALANCERS = ("static", "uncertainty", "dwa", "pcgrad")
_SINGLE_TASK = '{"trunk": {"name": "shared_bottom"}, "heads": {"name": "plain"}}'


def _not_empty(value: dict) -> dict:
    if not value:
        raise ValueError("expected at least one entry")
    return value


class TuningConfig(Section):
    """How the static weights are tuned: by trainings that are judged on the last training day."""

    trials: PositiveInt = Field(
        5,
        description="Trainings per model. With two tasks the second one's weight goes from lowest to highest by equal "
        "factors; with more, all but the first task's are spread evenly over that range.",
    )
    lowest: PositiveFloat = Field(0.25, description="Smallest weight tried; the first task's is always 1.")
    highest: PositiveFloat = Field(4.0, description="Largest weight tried.")

    @model_validator(mode="after")
    def _in_order(self) -> TuningConfig:
        if self.lowest > self.highest:
            raise ValueError(f"lowest: expected at most highest ({self.highest:g}), got {self.lowest:g}")
        return self


class SweepConfig(Section):
    """The grid that `seesaw sweep` trains; optimizer, epochs and batch size are those of the configuration."""

    models: Annotated[dict[str, ModelConfig], AfterValidator(_not_empty)] = Field(
        {name: ModelConfig(preset=name) for name in _PRESETS},
        description="Trunks and heads to compare, under names of your choice.",
    )
    balancers: Annotated[dict[str, AnyBalancer], AfterValidator(_not_empty)] = Field(
        {name: TypeAdapter(AnyBalancer).validate_json(json.dumps({"name": name})) for name in _BALANCERS},
        description="Methods to compare with each model, under names of your choice.",
    )
    single_task: ModelConfig = Field(
        ModelConfig.from_json(_SINGLE_TASK),
        description="What is trained for each task alone. Its chain has one task, so `plain` heads fit.",
    )
    tuning: TuningConfig = TuningConfig()
    seeds: PositiveInt = Field(2, description="Trainings of each point, with the seeds 1, 2, ...")
    rows: PositiveInt | None = Field(
        None,
        description="Train on about this many rows, those of a random share of the users, and judge on the same share; "
        "all by default.",
    )
    replicates: PositiveInt = Field(300, description="Replicates of the bootstrap over users.")
    tolerance: NonNegativeFloat = Field(
        0.001, description="How much AUC a recommended point may lose on a task, with 95 % confidence."
    )

    def check_tasks(self, tasks: tuple[TaskConfig, ...]) -> None:
        """Refuses models and balancers that name other tasks.

        Raises:
          ValueError: naming the entry.
        """
        names = tuple(t.name for t in tasks)
        parts = [(f"models.{key}.heads", model.heads) for key, model in self.models.items()]
        for key, part in [*parts, *((f"balancers.{key}", b) for key, b in self.balancers.items())]:
            try:
                part.check_tasks(names)
            except ValueError as error:
                raise ValueError(f"{key}.{error}") from None
