"""Configuration of the logs, the attribution and the window of days."""

from __future__ import annotations

import zoneinfo
from datetime import date, timedelta
from typing import Annotated, Literal, Union

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.log_example_gen.paths import PathPattern
from components.log_example_gen.reasons import Reason
from models.section import Duration, Section

_Share = Annotated[float, Field(ge=0, le=1)]

LogFormat = Literal["parquet", "csv", "jsonl"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]
Touch = Literal["last_touch", "first_touch"]

REPEAT = timedelta(hours=6)
"""An exposure so soon after another one of its key is the same one, logged again."""

NEAR = timedelta(hours=12)
"""So far outside of its window a cause is still looked for, to tell an event that is late from one without a cause."""


def _dated(path: str) -> str:
    return PathPattern.parse(path).text


class LogColumns(Section):
    """Which column of a log carries what. Feature columns are named by the features."""

    item_id: str = Field("item_id", description="Column with the item; request and item make the key of the join.")
    time: str = Field("time", description="Column with the time of the event.")


class ExposureColumns(LogColumns):
    request_id: str = Field("request_id", description="Column with the request in which items were shown together.")
    user_id: str = Field("user_id", description="Column with the user.")


class EventColumns(LogColumns):
    request_id: str | None = Field(
        "request_id",
        description="Column with the request; null if the log has none: it is then joined by user and item.",
    )
    user_id: str | None = Field(None, description="Column with the user, of a log without requests.")
    value: str | None = Field(None, description="Column with the value of the event, such as a price paid.")

    @property
    def owner(self) -> str:
        """The column that makes the key of the join, with the item."""
        column = self.user_id if self.request_id is None else self.request_id
        assert column is not None
        return column

    @model_validator(mode="after")
    def _one_key(self) -> EventColumns:
        if (self.request_id is None) == (self.user_id is None):
            raise ValueError(
                "expected either request_id, or request_id: null and user_id (to join by user and item), "
                f"got request_id: {self.request_id or 'null'} and user_id: {self.user_id or 'null'}"
            )
        return self


class _Log(Section):
    path: Annotated[str, AfterValidator(_dated)] = Field(
        description="Files of a day or hour, under logs.root: '{date}' stands for YYYY-MM-DD, '{date:%Y%m%d}' for "
        "another form, '{hour}' for 00 to 23; * and ? may be used."
    )
    missing_hours: Literal["stop", "allow"] = Field(
        "stop", description="With '{hour}' in the path: whether an hour of the window without a file stops the run."
    )
    format: LogFormat = Field("parquet", description="Format of the files; a row of csv and jsonl is a line.")
    time_unit: TimeUnit = Field(
        "ms", description="Unit of times since 1970, or iso8601 for text; a Parquet timestamp brings its own."
    )


class ExposureLog(_Log):
    columns: ExposureColumns = ExposureColumns()
    extra: dict[str, Literal["id", "number"]] = Field(
        default={},
        description="Further columns that the examples keep, for the comparison of rankers: logged scores, the arm of "
        "an experiment, propensities; such as {arm: id, propensity: number}.",
    )


class EventLog(_Log):
    columns: EventColumns = EventColumns()
    negative_values: Literal["reject", "keep"] = Field(
        "reject", description="Reject rows whose value is below zero, or keep them where they are refunds, say."
    )


class LogsConfig(Section):
    """Where the logs are and how to read them."""

    root: str = Field(".", description="Folder of the logs; relative to the configuration file's folder.")
    timezone: str = Field("UTC", description="IANA name of the zone in which a day begins and ends.")
    lateness_days: NonNegativeInt = Field(1, description="A row may lie in the folder of a day up to this much later.")
    max_rejected: Union[_Share, dict[Union[Literal["total"], Reason], _Share]] = Field(
        0.05,
        description="A larger share of rejected rows in a log stops the run; or shares by reason, such as "
        "{total: 0.05, time_out_of_range: 0.01}.",
    )
    unreadable_files: Literal["stop", "reject"] = Field(
        "stop",
        description="A damaged file stops the run, or its rows up to the damage are read and the rest is one "
        "rejected row.",
    )
    exposures: ExposureLog
    events: dict[str, EventLog] = Field(description="Logs of what follows an exposure, in the order of the funnel.")

    @property
    def rejection_limits(self) -> dict[str, float]:
        """The share of rejected rows that a log may have, by reason, and of all under 'total'."""
        given = self.max_rejected
        if isinstance(given, dict):
            return {"total": 0.05} | {str(name): limit for name, limit in given.items()}
        return {"total": given}

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
    touch: dict[str, Touch] = Field(
        default={},
        description="Per event: which of several causes in its window counts, last_touch (the default) or first_touch.",
    )

    @model_validator(mode="after")
    def _touches_of_windows(self) -> AttributionConfig:
        unknown = [event for event in self.touch if event not in self.windows]
        if unknown:
            raise ValueError(f"touch: expected events among {', '.join(self.windows)}, got '{unknown[0]}'")
        return self

    @property
    def maturity(self) -> timedelta:
        """Time after which an exposure's labels are final: all windows on end, and the skew."""
        return sum(self.windows.values(), timedelta(0)) + self.clock_skew

    @property
    def look_back(self) -> timedelta:
        """Rows up to this long before a day decide what becomes of its rows."""
        return sum(self.windows.values(), NEAR + REPEAT) + len(self.windows) * self.clock_skew

    @property
    def look_ahead(self) -> timedelta:
        """Rows up to this long after a day decide what becomes of its rows."""
        return max(sum(self.windows.values(), timedelta(0)), NEAR) + len(self.windows) * self.clock_skew


class JoinConfig(Section):
    """What the join may take of a machine, and how long joined days are kept."""

    memory_gib: PositiveFloat = Field(
        1.0,
        description="Memory in GiB that a worker may use for rows. The join cuts them into buckets by it, on disk.",
    )
    threads: PositiveInt | None = Field(
        None,
        description="Files read or buckets joined at once by a worker, which share its memory; by default one per "
        "core, four at most, in the process itself, and one where Beam has workers of its own.",
    )
    keep_days: PositiveInt | None = Field(
        None,
        description="Joined days more than this many days before the last one are removed; all are kept by default.",
    )


KeepRate = Annotated[float, Field(gt=0, le=1)]


class SamplingConfig(Section):
    """How many of the rows without an event training sees. Days to evaluate on are never sampled."""

    keep: dict[str, KeepRate] = Field(
        default={},
        description="Per event: share kept of the exposures that reached the step before it and not the event, such as "
        "{click: 0.1, purchase: 0.5}; 1 for events not named. A kept row weighs 1 / share in training.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Which rows are kept, by a hash of their key.")

    @property
    def on(self) -> bool:
        return any(rate < 1 for rate in self.keep.values())


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

    @property
    def days(self) -> tuple[date, ...]:
        """All days of the window."""
        return tuple(self.first_day + timedelta(days=i) for i in range((self.last_day - self.first_day).days + 1))
