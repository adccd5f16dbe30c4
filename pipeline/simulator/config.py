"""Configuration of the log simulator."""

from __future__ import annotations

import zoneinfo
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from models.section import Duration, Section

Share = Annotated[float, Field(ge=0, le=0.5)]


class DirtConfig(Section):
    """How much of each kind of dirt the logs get, all of it on top of the clean rows.

    Each is a share of the rows that it could befall. Sums over the days are exact: the share of all
    rows, rounded up, so that a share above 0 is seen in small logs too. No kind changes a label.
    """

    duplicate_exposures: Share = Field(0.01, description="Exposures written twice, half of them with a later time.")
    duplicate_events: Share = Field(0.01, description="Clicks, and purchases, written twice.")
    repeated_clicks: Share = Field(0.02, description="Clicks followed by a second click on the same exposure.")
    clicks_after_window: Share = Field(0.02, description="Clicks later than the click window, per click in time.")
    purchases_after_window: Share = Field(0.05, description="Purchases later than their window, per purchase in time.")
    clicks_without_exposure: Share = Field(0.01, description="Clicks whose exposure was never logged, per click.")
    purchases_without_click: Share = Field(0.02, description="Purchases without a click, per purchase.")
    clicks_before_exposure: Share = Field(0.005, description="Clicks earlier than their exposure, per click.")
    purchases_before_click: Share = Field(0.01, description="Purchases earlier than their click, per purchase.")
    malformed: Share = Field(0.002, description="Rows that cannot be read, per row of each log.")
    missing_column: Share = Field(0.001, description="Rows in files that lack a required column, per row of each log.")
    missing_feature: Share = Field(0.02, description="Exposures in files that lack the column 'device'.")
    late: Share = Field(0.01, description="Rows of each log that arrive in the next day's folder.")


CLEAN = DirtConfig(**{name: 0.0 for name in DirtConfig.model_fields})
"""Logs without any dirt."""


class SimulationConfig(Section):
    """A simulated world and its logs."""

    seed: int = Field(0, ge=0, description="The same seed and configuration give the same rows.")
    users: PositiveInt = Field(5000, lt=2**26)
    items: PositiveInt = Field(2000, lt=2**26)
    categories: PositiveInt = Field(24, le=1000)
    exposures_per_day: PositiveInt = Field(20000, description="Clean exposures of each day, exactly.")
    first_day: date = date(2026, 1, 1)
    days: int = Field(8, ge=1, le=366)
    timezone: str = Field("UTC", description="IANA name of the zone in which a day begins and ends.")
    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    rows_per_file: PositiveInt = Field(250_000, description="A day's log is cut into files of this many rows at most.")
    ctr: float = Field(0.07, gt=0, lt=1, description="Clicks per exposure.")
    cvr: float = Field(0.07, gt=0, lt=1, description="Purchases per click.")
    task_correlation: float = Field(
        0.5, ge=-1, le=1, description="How far what makes a user click also makes the user buy (below 0: deters)."
    )
    click_window: Duration = Field(timedelta(minutes=30), description="A click after this does not count.")
    purchase_window: Duration = Field(
        timedelta(days=3), description="A purchase later than this after its click does not count."
    )
    clock_skew: Duration = Field(
        timedelta(0), description="An event may precede its cause by this much and still counts."
    )
    dirt: DirtConfig = DirtConfig()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"expected an IANA name such as 'Europe/Berlin', got '{name}'") from None
        return name

    @property
    def last_day(self) -> date:
        return self.first_day + timedelta(days=self.days - 1)
