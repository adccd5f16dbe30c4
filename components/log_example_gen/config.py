"""Configuration of the logs, the attribution and the window of days."""

from __future__ import annotations

import zoneinfo
from datetime import date, timedelta
from typing import Annotated, Literal, Union

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from models.section import Duration, Section

LogFormat = Literal["parquet", "csv", "jsonl"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]


def _dated(path: str) -> str:
    if "{date}" not in path:
        raise ValueError("expected '{date}' where the day (YYYY-MM-DD) stands in the path, as in 'clicks/{date}/*.csv'")
    return path


class LogColumns(Section):
    """Which column of a log carries what. Feature columns are named by the features."""

    request_id: str = Field("request_id", description="Column with the request in which items were shown together.")
    item_id: str = Field("item_id", description="Column with the item; request and item make the key of the join.")
    time: str = Field("time", description="Column with the time of the event.")


class ExposureColumns(LogColumns):
    user_id: str = Field("user_id", description="Column with the user.")


class EventColumns(LogColumns):
    value: str | None = Field(None, description="Column with the value of the event, such as a price paid.")


class _Log(Section):
    path: Annotated[str, AfterValidator(_dated)] = Field(
        description="Files of a day, under logs.root: '{date}' stands for YYYY-MM-DD; * and ? may be used."
    )
    format: LogFormat = Field("parquet", description="Format of the files; a row of csv and jsonl is a line.")
    time_unit: TimeUnit = Field(
        "ms", description="Unit of times since 1970, or iso8601 for text; a Parquet timestamp brings its own."
    )


class ExposureLog(_Log):
    columns: ExposureColumns = ExposureColumns()


class EventLog(_Log):
    columns: EventColumns = EventColumns()


class LogsConfig(Section):
    """Where the logs are and how to read them."""

    root: str = Field(".", description="Folder of the logs; relative to the configuration file's folder.")
    timezone: str = Field("UTC", description="IANA name of the zone in which a day begins and ends.")
    lateness_days: NonNegativeInt = Field(1, description="A row may lie in the folder of a day up to this much later.")
    max_rejected: float = Field(0.05, ge=0, le=1, description="A larger share of rejected rows in a log stops the run.")
    exposures: ExposureLog
    events: dict[str, EventLog] = Field(description="Logs of what follows an exposure, in the order of the funnel.")

    @model_validator(mode="after")
    def _known_zone(self) -> LogsConfig:
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"timezone: expected a name such as 'Europe/Berlin', got '{self.timezone}'") from None
        return self


class AttributionConfig(Section):
    """How long after the step before it an event still counts."""

    windows: dict[str, Duration] = Field(
        default={"click": timedelta(minutes=30), "purchase": timedelta(days=3)},
        description="Per event: the longest time after the step before it, such as {click: 30m, purchase: 3d}.",
    )
    clock_skew: Duration = Field(
        default=timedelta(0), description="An event may precede its cause by this much, as clocks differ."
    )

    @property
    def maturity(self) -> timedelta:
        """Time after which an exposure's labels are final: all windows on end, and the skew."""
        return sum(self.windows.values(), timedelta(0)) + self.clock_skew


class WindowConfig(Section):
    """Days to train on and days to evaluate on; the evaluation days are the last ones."""

    last_day: Union[date, Literal["latest"]] = Field(
        "latest", description="Last evaluation day; 'latest' is the last day whose labels are final."
    )
    train_days: PositiveInt = Field(description="Days to train on, just before the evaluation days.")
    eval_days: PositiveInt = Field(1, description="Days to evaluate on.")


class Window(Section):
    """A window of days, resolved: what one run reads.

    Attributes:
      first_day, last_day: days whose exposures become examples, both included.
      first_eval_day: the days from here on are for evaluation, those before for training.
      data_end_ms: end of the data that is there (epoch ms): labels due later are not mature.
    """

    first_day: date
    first_eval_day: date
    last_day: date
    data_end_ms: int
