"""Configuration of the watch over the model in service."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from components.offline_ab.config import PER_REQUEST
from models.section import Section

METRICS = ("auc", "pr_auc", "gauc", "log_loss", "normalised_entropy", "calibration_error", "ece", *PER_REQUEST)


class MonitorConfig(Section):
    """What `seesaw monitor` holds the model in service to; it raises an alert where a limit is surely passed."""

    days: PositiveInt = Field(
        1, description="Days to look at together: the last ones with final labels, after those of its evaluation."
    )
    not_worse_by: dict[str, NonNegativeFloat] = Field(
        {"auc": 0.01, "normalised_entropy": 0.02},
        description="Per metric: how much worse than on the evaluation days before its promotion it may be, for each "
        "task and slice.",
    )
    calibration: PositiveFloat = Field(
        0.1, description="How far the mean prediction may be from the base rate, as a share of it, for each task."
    )
    drift: dict[str, PositiveFloat] | None = Field(
        None,
        description="Per feature: how far its distribution may be from that of the evaluation days before the "
        "promotion; measured as `validation.drift`, which is the default.",
    )

    def check(self, features: set[str]) -> None:
        """Refuses metrics and features that there are not.

        Raises:
          ValueError: naming the key.
        """
        for metric in self.not_worse_by:
            if metric not in METRICS:
                raise ValueError(f"not_worse_by: expected metrics of {', '.join(METRICS)}, got '{metric}'")
        for name in self.drift or {}:
            if name not in features:
                raise ValueError(f"drift: expected names of features, got '{name}'")
