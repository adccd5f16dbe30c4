"""Joins the rows of a bucket to examples: all rows of a key lie in one bucket, so buckets are independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from components.log_example_gen.attribution import EventRows, Judged, Rows, Rules, Verdict, attribute
from components.log_example_gen.keys import contradict, key_codes, order_of_equals
from components.log_example_gen.parsing import (
    EVENT_TIME,
    HASH,
    ITEM_ID,
    REQUEST_ID,
    USER_HASH,
    USER_ID,
    VALUE,
    LogSpec,
    count_name,
    delay_name,
    value_name,
)
from components.log_example_gen.window import EXPOSURES
from models.tasks import WEIGHT

DELAYS = {
    "1 s": timedelta(seconds=1),
    "10 s": timedelta(seconds=10),
    "1 min": timedelta(minutes=1),
    "5 min": timedelta(minutes=5),
    "15 min": timedelta(minutes=15),
    "30 min": timedelta(minutes=30),
    "1 h": timedelta(hours=1),
    "3 h": timedelta(hours=3),
    "6 h": timedelta(hours=6),
    "12 h": timedelta(hours=12),
    "1 d": timedelta(days=1),
    "2 d": timedelta(days=2),
    "3 d": timedelta(days=3),
    "7 d": timedelta(days=7),
    "14 d": timedelta(days=14),
    "30 d": timedelta(days=30),
}
"""Upper edges of the buckets of delays, which belong to them; an event before its cause lies in the first."""

MORE = "more"
"""Label of the bucket of delays beyond the last edge."""

_DELAY_LABELS = (*DELAYS, MORE)
_DELAY_EDGES_MS = np.array([edge // timedelta(milliseconds=1) for edge in DELAYS.values()])

Outcomes = dict[str, dict[str, dict[str, int]]]
"""Per day (ISO text), outcome and reason, the number of rows."""


@dataclass(frozen=True)
class Joined:
    """Examples of a bucket, and what became of its rows.

    Attributes:
      examples: per joined day of the exposures, in the order of the hash: the columns of the exposures,
        and per event its label, count, delay and, where it has one, summed value. With sampling there is a
        weight, which is 1 here.
      training: the examples that stand for them where the day is one to train on: a sample with weights. The
        same tables without sampling.
      outcomes: per log, counts of its rows by the day in which they count.
      sampled_out: per log and day, those of its joined rows that are not in `training`.
      delays: per event, day and bucket of DELAYS or MORE, the number of joined events so long after their cause.
    """

    examples: dict[date, pa.Table]
    training: dict[date, pa.Table]
    outcomes: dict[str, Outcomes]
    sampled_out: dict[str, dict[str, int]]
    delays: dict[str, dict[str, dict[str, int]]]


def join(tables: Mapping[str, pa.Table], specs: Mapping[str, LogSpec], rules: Rules) -> Joined:
    """Deduplicates, attributes and labels the rows of all logs that share a bucket.

    A row counts in the day of the exposure that it is attributed to, and else in its own. What becomes
    of it does not depend on which other days are joined, given the rows around the days (see Rules).

    Args:
      tables: per log, rows of its schema, in any order.
      specs: the logs: the exposures first, then the events in the order of the funnel.
      rules: the days and the attribution.
    """
    logs = attribute_rows(tables, specs, rules)
    of_exposures = logs[EXPOSURES]
    causes = dict(zip(specs, [None, "exposure", *list(specs)[1:]]))
    joined = np.flatnonzero(of_exposures.verdicts == Verdict.JOINED)
    joined = joined[_example_order(tables[EXPOSURES], joined, of_exposures.days[joined])]
    columns = [column.name for column in specs[EXPOSURES].columns]
    examples = tables[EXPOSURES].select(columns).take(pa.array(joined))
    exposure_time = _numpy(tables[EXPOSURES], EVENT_TIME)
    delays: dict[str, dict[str, dict[str, int]]] = {}
    for event, spec in specs.items():
        if event == EXPOSURES:
            continue
        delays[event] = _count_delays(logs[event])
        for name, column in _event_columns(tables[event], spec, logs[event], exposure_time, joined).items():
            examples = examples.append_column(name, column)
    days = of_exposures.days[joined]
    training, training_days, sampled_out = examples, days, {}
    if rules.sampling is not None:
        labels = [examples.column(event).to_numpy() for event in delays]
        kept, weight = rules.sampling.draw(labels, _numpy(tables[EXPOSURES], HASH)[joined])
        training, training_days = examples.take(pa.array(kept)).append_column(WEIGHT, pa.array(weight)), days[kept]
        sampled_out = _count_sampled_out(examples, days, kept, specs)
        examples = examples.append_column(WEIGHT, pa.array(np.ones(len(days))))
    return Joined(
        examples=_by_day(examples, days, rules),
        training=_by_day(training, training_days, rules),
        outcomes={log: count_verdicts(judged.verdicts, judged.days, causes[log]) for log, judged in logs.items()},
        sampled_out=sampled_out,
        delays=delays,
    )


def _by_day(table: pa.Table, days: np.ndarray, rules: Rules) -> dict[date, pa.Table]:
    """Cuts rows in the order of their days."""
    cuts = {day: np.searchsorted(days, [day.toordinal(), day.toordinal() + 1]) for day in rules.days}
    return {day: table.slice(begin, end - begin) for day, (begin, end) in cuts.items()}


def _count_sampled_out(
    examples: pa.Table, days: np.ndarray, kept: np.ndarray, specs: Mapping[str, LogSpec]
) -> dict[str, dict[str, int]]:
    """Joined rows of each log whose exposure is not kept, per day."""
    out = np.ones(len(examples), bool)
    out[kept] = False
    counts: dict[str, dict[str, int]] = {}
    for log in specs:
        rows = np.ones(len(examples), np.int64) if log == EXPOSURES else _numpy(examples, count_name(log))
        of_log = counts.setdefault(log, {})
        for day in np.unique(days[out]).tolist():
            if count := int(rows[out & (days == day)].sum()):
                of_log[date.fromordinal(day).isoformat()] = count
    return counts


def attribute_rows(tables: Mapping[str, pa.Table], specs: Mapping[str, LogSpec], rules: Rules) -> dict[str, Judged]:
    """Finds the equal keys of the rows of all logs, and attributes them.

    Returns:
      What became of the rows of each log, the exposures first.
    """
    exposures = tables[EXPOSURES]
    events = [log for log in specs if log != EXPOSURES]
    time = _numpy(exposures, EVENT_TIME)
    rows: dict[str, EventRows] = {}
    for owner, of_key in ((REQUEST_ID, HASH), (USER_ID, USER_HASH)):
        sharing = [event for event in events if specs[event].key[0] == owner]
        if owner == USER_ID and not sharing:
            continue
        key, *event_keys = key_codes(
            [(exposures, of_key), *((tables[event], HASH) for event in sharing)], (owner, ITEM_ID)
        )
        if owner == REQUEST_ID:
            content = [column.name for column in specs[EXPOSURES].columns]
            shown = Rows(key, time, order_of_equals(exposures, content, key, time))
        # Of one key and time there may be several exposures that count only in another request.
        rank = order_of_equals(exposures, [REQUEST_ID] if owner == USER_ID else [], key, time)
        for event, event_key in zip(sharing, event_keys):
            event_time = _numpy(tables[event], EVENT_TIME)
            values = [VALUE] if specs[event].has_value else []
            event_rank = order_of_equals(tables[event], values, event_key, event_time)
            rows[event] = EventRows(event_key, event_time, event_rank, key, rank)
    judged = dict(zip([EXPOSURES, *events], attribute(shown, [rows[event] for event in events], rules)))
    for log, of_log in {EXPOSURES: shown, **rows}.items():
        _mark_conflicts(judged[log].verdicts, of_log, tables[log], specs[log])
    return judged


def _mark_conflicts(verdicts: np.ndarray, rows: Rows, table: pa.Table, spec: LogSpec) -> None:
    """Duplicates with other values than the row before them, of the same key and in the order of time, conflict."""
    repeated = np.flatnonzero(verdicts == Verdict.DUPLICATE)
    if not len(repeated):
        return
    of_key = np.zeros(int(rows.key.max()) + 1, bool)
    of_key[rows.key[repeated]] = True
    order = np.flatnonzero(of_key[rows.key])
    order = order[np.lexsort((rows.rank[order], rows.time[order], rows.key[order]))]
    place = np.flatnonzero(verdicts[order] == Verdict.DUPLICATE)
    repeats, before = order[place], order[place - 1]
    content = [column.name for column in spec.columns if column.name != EVENT_TIME]
    verdicts[repeats[contradict(table.select(content), repeats, before)]] = Verdict.CONFLICTING


def _example_order(exposures: pa.Table, joined: np.ndarray, days: np.ndarray) -> np.ndarray:
    """The order by day, hash, and for equal hashes by the ids and the time, whatever file a row came from."""
    hashes = _numpy(exposures, HASH)[joined]
    order = np.lexsort((hashes, days))
    same = (hashes[order][1:] == hashes[order][:-1]) & (days[order][1:] == days[order][:-1])
    tied = np.zeros(len(order), bool)
    tied[1:] |= same
    tied[:-1] |= same
    if tied.any():
        rows = order[tied]
        content = exposures.select([REQUEST_ID, ITEM_ID]).take(pa.array(joined[rows]))
        request, item = (column.to_numpy().astype(str) for column in content.columns)
        time = _numpy(exposures, EVENT_TIME)[joined[rows]]
        order[tied] = rows[np.lexsort((time, item, request, hashes[rows], days[rows]))]
    return order


def _event_columns(
    events: pa.Table, spec: LogSpec, judged: Judged, exposure_time: np.ndarray, joined: np.ndarray
) -> dict[str, pa.Array]:
    """Label, count, delay of the first, and summed value of an event, per joined exposure."""
    n = len(exposure_time)
    belongs = np.flatnonzero(judged.exposure >= 0)
    time = _numpy(events, EVENT_TIME)
    # Floats add up to the same sum only in the same order.
    belongs = belongs[np.lexsort((time[belongs], judged.exposure[belongs]))]
    exposure = judged.exposure[belongs]
    counts = np.bincount(exposure, minlength=n)
    begin = np.cumsum(counts) - counts
    first = belongs[np.minimum(begin, len(belongs) - 1)[joined]] if len(belongs) else np.zeros(len(joined), np.int64)
    delay = time[first] - exposure_time[joined] if len(belongs) else first
    columns = {
        spec.log: pa.array((counts[joined] > 0).astype(np.int64)),
        count_name(spec.log): pa.array(counts[joined].astype(np.int64)),
        delay_name(spec.log): pa.array(delay, pa.int64(), mask=counts[joined] == 0),
    }
    if spec.has_value:
        values = events.column(VALUE).fill_null(0.0).to_numpy()[belongs]
        sums = np.bincount(exposure, weights=values, minlength=n)[joined]
        columns[value_name(spec.log)] = pa.array(sums, pa.float64())
    return columns


def _count_delays(judged: Judged) -> dict[str, dict[str, int]]:
    joined = judged.exposure >= 0
    bucket = np.searchsorted(_DELAY_EDGES_MS, judged.delay[joined], side="left")
    counts: dict[str, dict[str, int]] = {}
    for day, number, count in _tally(judged.days[joined], bucket):
        counts.setdefault(day, {})[_DELAY_LABELS[number]] = count
    return counts


def count_verdicts(verdicts: np.ndarray, days: np.ndarray, cause: str | None) -> Outcomes:
    """Rows per day, outcome and reason; `cause` as in `Verdict.outcome`."""
    counts: Outcomes = {}
    for day, verdict, count in _tally(days, verdicts):
        outcome, reason = Verdict(verdict).outcome(cause)
        counts.setdefault(day, {}).setdefault(outcome, {})[reason] = count
    return counts


def _tally(days: np.ndarray, numbers: np.ndarray) -> Sequence[tuple[str, int, int]]:
    """Day, small number and how often they come together."""
    pairs, counts = np.unique(days * 256 + numbers, return_counts=True)
    return [
        (date.fromordinal(pair // 256).isoformat(), pair % 256, count)
        for pair, count in zip(pairs.tolist(), counts.tolist())
    ]


def _numpy(table: pa.Table, column: str) -> np.ndarray:
    return table.column(column).to_numpy()
