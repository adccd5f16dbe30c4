"""What a join of the simulated logs must come to, derived from how each row was made."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.simulator.calendar import Calendar, milliseconds
from pipeline.simulator.config import SimulationConfig

if TYPE_CHECKING:  # importing them takes TensorFlow along, and seconds
    from components.log_example_gen.config import AttributionConfig, Window

EXPOSURES, CLICKS, PURCHASES = "exposures", "clicks", "purchases"
LOGS = (EXPOSURES, CLICKS, PURCHASES)
EVENTS = {"click": CLICKS, "purchase": PURCHASES}
"""Events of the funnel and the folders of their logs."""

TRUTH_FILE = "truth.json"

ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),  # of the exposure or event; its duplicates have the same
        pa.field("exposure", pa.int64()),  # id of the exposure that it belongs to, -1 for none
        pa.field("time", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("reason", pa.string()),  # why it cannot be read; '' where it can
        pa.field("late", pa.bool_()),
        pa.field("no_device", pa.bool_()),
    ]
)
"""One row for each row of a log, in one file per log and day folder."""

_DAY = timedelta(days=1)

NEAR = timedelta(hours=12)
"""So far outside of its window a cause still says why an event does not count."""
REPEAT = timedelta(hours=6)
"""Longest time between duplicates. The simulator's are nearer, and on one day."""


def rows_file(out: Path, log: str, day: Any) -> Path:
    return out / "truth" / "rows" / log / f"{day}.parquet"


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counting one half; None where one class is missing."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    return float((rank[where.reshape(-1)][labels].sum() - positives * (positives + 1) / 2) / positives / negatives)


def expected_reconciliation(
    out: Path, window: Window, attribution: AttributionConfig, lateness_days: int = 1
) -> dict[str, Any]:
    """The reconciliation report that a right join of a window of the logs in `out` comes to.

    Nothing is joined here: every row's truth says which exposure it was made from.

    Args:
      out: folder of simulated logs.
      window: days to read, and the end of the data.
      attribution: windows of 'click' and 'purchase', and the clock skew; they may differ from those
        that the logs were made with.
      lateness_days: how many days late a row's folder may be.

    Returns:
      {"logs": {log or event: {"read": n, "outcomes": {outcome: {reason: n}}}},
       "examples": {"train" and "eval": {"rows": n, "labels": {event: n}}}}.
    """
    return reconcile(
        out,
        (window.first_day, window.first_eval_day, window.last_day),
        window.data_end_ms,
        attribution.windows,
        attribution.clock_skew,
        lateness_days,
    )


def reconcile(
    out: Path,
    days: tuple[date, date, date],
    data_end_ms: int,
    windows: Mapping[str, timedelta],
    clock_skew: timedelta,
    lateness_days: int = 1,
) -> dict[str, Any]:
    """`expected_reconciliation`, of a window's first day, first evaluation day and last day."""
    first_day, first_eval_day, last_day = days
    longest = sum(windows.values(), timedelta(0))
    config = SimulationConfig.from_json(json.dumps(json.loads((out / "truth" / TRUTH_FILE).read_text())["config"]))
    calendar = Calendar(config.first_day, config.days, config.timezone)
    # The window may reach beyond the simulated days, so it has a calendar of its own.
    own = Calendar(first_day, (last_day - first_day).days + 1, config.timezone)
    start, end = int(own.starts[0]), int(own.starts[-1])
    before = milliseconds(longest + NEAR + REPEAT + len(windows) * clock_skew)
    after = milliseconds(max(longest, NEAR) + len(windows) * clock_skew)
    zone = ZoneInfo(config.timezone)
    first, last = (datetime.fromtimestamp(ms / 1000, zone).date() for ms in (start - before, end + after - 1))
    folders = range(
        max((first - config.first_day).days, 0),
        min((last - config.first_day).days + lateness_days, config.days - 1) + 1,
    )
    logs = {log: _read(out, log, [calendar.date(d) for d in folders]) for log in LOGS}
    maturity, skew, near = milliseconds(longest + clock_skew), milliseconds(clock_skew), milliseconds(NEAR)

    exposures = logs[EXPOSURES]
    outcome = _unreadable(exposures)
    repeated = _repeated(exposures)
    kept = np.flatnonzero((outcome["name"] == "") & ~repeated)
    time = exposures["time"]
    _settle(outcome, (time < start) | (time >= end), "outside_window", "other_days")
    _settle(outcome, repeated, "duplicate", "")
    _settle(outcome, time + maturity > data_end_ms, "not_mature", "")
    _settle(outcome, np.ones(len(time), bool), "joined", "")
    report = {EXPOSURES: _tally(outcome)}

    # By id of the exposure: its time and its outcome, where it was read and is no duplicate.
    size = 1 + max((int(log["exposure"].max()) for log in logs.values() if len(log["exposure"])), default=0)
    cause_outcome = np.full(size, "", outcome["name"].dtype)
    cause_outcome[exposures["id"][kept]] = outcome["name"][kept]
    exposure_time = np.zeros(size, np.int64)
    exposure_time[exposures["id"][kept]] = time[kept]

    causes_of, causes_at = exposures["id"][kept], time[kept]
    labels = {}
    for step, (event, log) in enumerate(EVENTS.items()):
        rows = logs[log]
        reach = milliseconds(windows[event])
        outcome = _unreadable(rows)
        time, of = rows["time"], rows["exposure"]
        readable, repeated = outcome["name"] == "", _repeated(rows)

        causes = functools.partial(_any_between, causes_of, causes_at, of)
        fits = readable & causes(time - reach, time + skew)
        attributed = fits & ~repeated
        _settle(outcome, attributed & (cause_outcome[of] == "outside_window"), "outside_window", "other_days")
        _settle(outcome, ~attributed & ((time < start) | (time >= end)), "outside_window", "other_days")
        _settle(outcome, repeated, "duplicate", "")
        _settle(outcome, attributed & (cause_outcome[of] == "not_mature"), "not_mature", "exposure_not_mature")
        _settle(outcome, attributed, "joined", "")
        _settle(outcome, causes(time - reach - near, time - reach), "outside_window", "after_window")
        cause = "exposure" if step == 0 else "click"
        _settle(outcome, causes(time + skew, time + skew + near), "orphan", "before_" + cause)
        _settle(outcome, np.ones(len(time), bool), "orphan", "no_" + cause)
        report[event] = _tally(outcome)
        labels[event] = np.unique(of[outcome["name"] == "joined"])
        # An event of another day is still the cause of one that comes after it, inside the window of days.
        causes_of, causes_at = of[attributed], time[attributed]

    first_eval = int(own.starts[(first_eval_day - first_day).days])
    joined = np.flatnonzero(cause_outcome == "joined")
    examples = {}
    for split, part in (
        ("train", joined[exposure_time[joined] < first_eval]),
        ("eval", joined[exposure_time[joined] >= first_eval]),
    ):
        examples[split] = {
            "rows": len(part),
            "labels": {event: int(np.isin(part, positive).sum()) for event, positive in labels.items()},
        }
    return {"logs": report, "examples": examples}


def _read(out: Path, log: str, days: list) -> dict[str, np.ndarray]:
    tables = [pq.read_table(rows_file(out, log, day), schema=ROW_SCHEMA) for day in days]
    table = pa.concat_tables(tables) if tables else ROW_SCHEMA.empty_table()
    return {name: table[name].to_numpy() for name in ("id", "exposure", "time", "reason")}


def _unreadable(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(rows["time"])
    outcome = {"name": np.full(n, "", "U16"), "reason": np.full(n, "", "U32")}
    reason = rows["reason"].astype("U32")
    for name in np.unique(reason[reason != ""]):
        _settle(outcome, reason == name, "rejected", name)
    return outcome


def _repeated(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The readable rows that have the id of an earlier one."""
    readable = np.flatnonzero(rows["reason"].astype("U32") == "")
    order = readable[np.lexsort((rows["time"][readable], rows["id"][readable]))]
    repeated = np.zeros(len(rows["time"]), bool)
    repeated[order[1:]] = rows["id"][order[1:]] == rows["id"][order[:-1]]
    return repeated


def _settle(outcome: dict[str, np.ndarray], where: np.ndarray, name: str, reason: str) -> None:
    """Gives an outcome to the rows that have none yet."""
    where = where & (outcome["name"] == "")
    outcome["name"][where], outcome["reason"][where] = name, reason


def _tally(outcome: dict[str, np.ndarray]) -> dict[str, Any]:
    counts = Counter(zip(outcome["name"].tolist(), outcome["reason"].tolist()))
    outcomes: dict[str, dict[str, int]] = {}
    for (name, reason), count in sorted(counts.items()):
        outcomes.setdefault(name, {})[reason] = count
    return {"read": len(outcome["name"]), "outcomes": outcomes}


def _any_between(
    causes_of: np.ndarray, causes_at: np.ndarray, of: np.ndarray, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """For each event of exposure `of`: does any of its causes lie in the times from `first` to `last`."""
    order = np.lexsort((causes_at, causes_of))
    # (exposure, time) pairs become one integer: ranks stand for times.
    times = np.unique(causes_at)
    span = len(times) + 1
    keys = causes_of[order] * span + np.searchsorted(times, causes_at[order])
    begin = np.searchsorted(keys, of * span + np.searchsorted(times, first, side="left"), side="left")
    end = np.searchsorted(keys, of * span + np.searchsorted(times, last, side="right"), side="left")
    return end > begin
