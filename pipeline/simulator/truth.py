"""What a join of the simulated logs must come to, derived from how each row was made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    duration = sum(windows.values(), clock_skew)
    config = SimulationConfig.from_json(json.dumps(json.loads((out / "truth" / TRUTH_FILE).read_text())["config"]))
    calendar = Calendar(config.first_day, config.days, config.timezone)
    margin = -(-duration // _DAY)
    folders = range(
        max((first_day - config.first_day).days - margin, 0),
        min((last_day - config.first_day).days + margin + lateness_days, config.days - 1) + 1,
    )
    logs = {log: _read(out, log, [calendar.date(d) for d in folders]) for log in LOGS}

    # The window may reach beyond the simulated days, so it has a calendar of its own.
    own = Calendar(first_day, (last_day - first_day).days + 1, config.timezone)
    start, end = int(own.starts[0]), int(own.starts[-1])
    maturity, skew = milliseconds(duration), milliseconds(clock_skew)

    exposures = logs[EXPOSURES]
    outcome = _unreadable_or_duplicate(exposures)
    time = exposures["time"]
    _settle(outcome, (time < start) | (time >= end), "outside_window", "")
    _settle(outcome, time + maturity > data_end_ms, "not_mature", "")
    _settle(outcome, np.ones(len(time), bool), "joined", "")
    report = {EXPOSURES: _tally(outcome)}

    # By id of the exposure: its time and its outcome, where it was read and is no duplicate.
    kept = np.flatnonzero((outcome["name"] != "rejected") & (outcome["name"] != "duplicate"))
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
        outcome = _unreadable_or_duplicate(rows)
        time, of = rows["time"], rows["exposure"]
        count, earliest, latest = _causes(causes_of, causes_at, of, time + skew)
        inside = time - latest <= reach
        # An event of another day is still the cause of one that comes after it, inside the window of days.
        attributed = (outcome["name"] == "") & (count > 0) & (earliest <= time + skew) & inside
        _settle(outcome, (time < start - skew) | (time > end + maturity), "outside_window", "other_days")
        _settle(outcome, count == 0, "orphan", "no_exposure" if step == 0 else "no_click")
        _settle(outcome, earliest > time + skew, "orphan", "before_exposure" if step == 0 else "before_click")
        for name in ("outside_window", "not_mature"):
            _settle(outcome, cause_outcome[of] == name, name, "exposure_" + name)
        _settle(outcome, ~inside, "outside_window", "after_window")
        _settle(outcome, np.ones(len(time), bool), "joined", "")
        report[event] = _tally(outcome)
        labels[event] = np.unique(of[outcome["name"] == "joined"])
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


def _unreadable_or_duplicate(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(rows["time"])
    outcome = {"name": np.full(n, "", "U16"), "reason": np.full(n, "", "U32")}
    reason = rows["reason"].astype("U32")
    for name in np.unique(reason[reason != ""]):
        _settle(outcome, reason == name, "rejected", name)
    readable = np.flatnonzero(reason == "")
    # The earliest of those with one id stays.
    order = readable[np.lexsort((rows["time"][readable], rows["id"][readable]))]
    repeated = np.zeros(n, bool)
    repeated[order[1:]] = rows["id"][order[1:]] == rows["id"][order[:-1]]
    _settle(outcome, repeated, "duplicate", "")
    return outcome


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


def _causes(
    causes_of: np.ndarray, causes_at: np.ndarray, of: np.ndarray, until: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each event of exposure `of`: how many causes it has, the first's time, and the last's up to `until`.

    If any cause is near enough, then the last one before the event is.
    """
    order = np.lexsort((causes_at, causes_of))
    causes_of, causes_at = causes_of[order], causes_at[order]
    low = np.searchsorted(causes_of, of, side="left")
    count = np.searchsorted(causes_of, of, side="right") - low
    padded = np.append(causes_at, 0)
    earliest = padded[low]
    # The search for (of, until) among (causes_of, causes_at): ranks stand for times, to fit into one integer.
    times = np.unique(causes_at)
    span = len(times) + 1
    keys = causes_of * span + np.searchsorted(times, causes_at)
    last = np.searchsorted(keys, of * span + np.searchsorted(times, until, side="right"), side="left") - 1
    latest = np.where(last >= low, padded[last], earliest)
    return count, earliest, latest
