"""A quick look at the logs: what a run on them would find, from a few of their days."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.log_example_gen.attribution import Verdict, rules
from components.log_example_gen.config import AttributionConfig, LogsConfig, Window
from components.log_example_gen.join import attribute_rows, count_verdicts
from components.log_example_gen.parsing import EVENT_TIME, Column, LogSpec, log_specs, parse_file
from components.log_example_gen.reading import UnreadableFile
from components.log_example_gen.report import check_columns, check_rejected, count_parsed, example_text, merge
from components.log_example_gen.window import EXPOSURES, LogFile, day_start_ms, input_files, total_bytes
from models.features import Feature
from models.section import UserError

_DAY = timedelta(days=1)
_COMMON_VALUES = 3


@dataclass(frozen=True)
class Rejection:
    """Rows rejected for one reason: how many, for which column ('' for the row itself), and one of them."""

    reason: str
    column: str
    rows: int
    example: str


@dataclass(frozen=True)
class ColumnCheck:
    """What is in a column of a log.

    Attributes:
      name: name of the feature or key.
      column: column of the log.
      kind: id, id_list, number or time.
      types: its types in the files; empty where it is in none or has no value.
      missing: share of the accepted rows without a value.
      distinct: different values (elements, for a list); of numbers too.
      values: the most common values with their share of the rows, of a list its elements; for numbers and
        times their minimum, median and maximum, by these names.
    """

    name: str
    column: str
    kind: str
    types: tuple[str, ...]
    missing: float
    distinct: int
    values: dict[str, float]


@dataclass(frozen=True)
class LogCheck:
    """What was found in the sample of a log.

    Attributes:
      log: 'exposures' or the event.
      files, rows: how many were read.
      complete: False where not all rows of the days were read.
      rejected: bad rows, the most frequent reason first.
      columns: those that are used.
      unused: columns that are there and not used.
      outcomes: per outcome and reason, rows whose outcome the sample tells. An event near the begin of
        the sample may belong to an exposure before it, so its outcome is not known.
      matched: share of these rows, duplicates aside, that follow from a row of the step before; None for
        the exposures, and where there are none.
    """

    log: str
    files: int
    rows: int
    complete: bool
    rejected: tuple[Rejection, ...]
    columns: tuple[ColumnCheck, ...]
    unused: tuple[str, ...]
    outcomes: dict[str, dict[str, int]]
    matched: float | None


@dataclass(frozen=True)
class SplitCheck:
    """Examples of a split.

    Attributes:
      days: days of the split.
      rows: examples in the sample.
      estimated_rows: examples of a run, by the size of the files.
      labels: per event, the examples of the sample with it.
    """

    days: int
    rows: int
    estimated_rows: int
    labels: dict[str, int]


@dataclass(frozen=True)
class Inspection:
    """What was found in a sample of the logs.

    Attributes:
      window: the window that a run would read.
      first_day, last_day: days of the window that were read.
      logs: the exposures first, then the events in the order of the funnel.
      splits: by name.
      problems: what would stop a run.
    """

    window: Window
    first_day: date
    last_day: date
    logs: tuple[LogCheck, ...]
    splits: dict[str, SplitCheck]
    problems: tuple[str, ...]


def inspect(
    logs: LogsConfig,
    attribution: AttributionConfig,
    features: Sequence[Feature],
    window: Window,
    max_rows: int = 200_000,
) -> Inspection:
    """Reads whole days around the begin of the evaluation days, as many as `max_rows` exposures allow.

    If they allow all, the outcomes are those of a run.

    Args:
      logs, attribution, features, window: as of a run.
      max_rows: rows read of each log, about.

    Raises:
      UserError: if a day is missing, a log is empty or a feature's name is taken.
    """
    specs = log_specs(logs, features)
    files = input_files(logs, attribution, window)
    exposure_files = [f for f in files if f.log == EXPOSURES]
    samples = {}
    first, last, samples[EXPOSURES] = _read_days(exposure_files, specs[EXPOSURES], window, max_rows)
    whole = (first, last) == (window.first_day, window.last_day)
    if whole and samples[EXPOSURES].complete:
        around = [f for f in exposure_files if not first <= f.day <= last]
        samples[EXPOSURES].read(around, max_rows)
        whole = samples[EXPOSURES].complete
    for event, spec in specs.items():
        if event != EXPOSURES:
            samples[event] = _Sample(spec)
            of_event = [f for f in files if f.log == event and (whole or f.day >= first)]
            samples[event].read(of_event, max_rows)

    # Exposures of the days before the sample are not there to find, unless all of the input was read.
    horizon = day_start_ms(logs, min(f.day for f in exposure_files) if whole else first)
    of_sample = rules(
        logs, attribution, window.model_copy(update={"first_day": first, "last_day": last}).days, window.data_end_ms
    )
    end = day_start_ms(logs, last + _DAY)
    tables = {log: samples[log].table() for log in specs}
    result = attribute_rows(tables, specs, of_sample)
    of_exposures = result[EXPOSURES]
    checks = [_check(samples[EXPOSURES], _outcomes(of_exposures.verdicts, of_exposures.days, None), None)]
    events = [log for log in specs if log != EXPOSURES]
    for step, event in enumerate(events):
        verdicts, time = result[event].verdicts, tables[event].column(EVENT_TIME).to_numpy()
        known = np.ones(len(verdicts), bool)
        if not (whole and samples[event].complete):
            reach = sum(of_sample.windows[: step + 1]) + of_sample.skew
            known = (time >= horizon + reach) & (time < end)
        verdicts = verdicts[known]
        judged = verdicts[~np.isin(verdicts, (Verdict.DUPLICATE, Verdict.CONFLICTING))]
        orphans = np.isin(judged, (Verdict.NO_CAUSE, Verdict.BEFORE_CAUSE)).sum()
        matched = 1 - float(orphans) / len(judged) if len(judged) else None
        checks.append(
            _check(samples[event], _outcomes(verdicts, result[event].days[known], ["exposure", *events][step]), matched)
        )
    joined = of_exposures.verdicts == Verdict.JOINED
    labels = {event: np.isin(np.arange(len(joined)), result[event].exposure) for event in events}
    exposure_time = tables[EXPOSURES].column(EVENT_TIME).to_numpy()
    return Inspection(
        window=window,
        first_day=first,
        last_day=last,
        logs=tuple(checks),
        splits=_splits(logs, window, exposure_time, joined, labels, exposure_files, samples[EXPOSURES]),
        problems=_problems(samples, logs, specs, features),
    )


class _Sample:
    """Rows of one log, with their counts."""

    def __init__(self, spec: LogSpec):
        self.spec = spec
        self.files: list[LogFile] = []
        self.rows = 0
        self.complete = True
        self.parts: list[pa.Table] = [spec.schema.empty_table()]
        self.counts: dict[str, Any] = {}
        self.types: dict[str, dict[str, None]] = {}
        self.problems: list[str] = []

    def read(self, files: Iterable[LogFile], max_rows: int) -> None:
        """Adds files until there are `max_rows` rows; the last batch may exceed that."""
        for file in files:
            if self.rows >= max_rows:
                self.complete = False
                return
            self.files.append(file)
            try:
                for parsed in parse_file(file, self.spec):
                    if self.rows >= max_rows:
                        self.complete = False
                        return
                    self.rows += len(parsed.rows) + len(parsed.rejected)
                    self.parts.append(parsed.rows)
                    self.counts = merge([self.counts, count_parsed(parsed, file)])
                    for name, kind in parsed.types.items():
                        self.types.setdefault(name, {}).update({} if kind == "null" else {kind: None})
            except UnreadableFile as error:
                self.problems.append(str(error))

    def table(self) -> pa.Table:
        return pa.concat_tables(self.parts)


def _read_days(files: Sequence[LogFile], spec: LogSpec, window: Window, max_rows: int) -> tuple[date, date, _Sample]:
    """Reads contiguous days of the exposures: the first for evaluation, and around it as many as there is room for."""
    sample = _Sample(spec)
    by_day = {day: [f for f in files if f.day == day] for day in {f.day for f in files}}
    first = last = window.first_eval_day
    sample.read(by_day[first], max_rows)
    before = [first - i * _DAY for i in range(1, (first - window.first_day).days + 1)]
    after = [first + i * _DAY for i in range(1, (window.last_day - first).days + 1)]
    for day in (d for pair in itertools.zip_longest(before, after) for d in pair if d is not None):
        # A day that does not fit would be read in part, and spoil the rates of the others. The first is
        # given twice the room, for a sample without any training day says nothing about training.
        room = 2 * max_rows if day == window.first_eval_day - _DAY else max_rows
        expected = sample.rows * total_bytes(by_day[day]) / max(total_bytes(sample.files), 1)
        if not sample.complete or sample.rows + expected > room:
            break
        first, last = min(first, day), max(last, day)
        sample.read(by_day[day], 3 * max_rows)
    return first, last, sample


def _outcomes(verdicts: np.ndarray, days: np.ndarray, cause: str | None) -> dict[str, dict[str, int]]:
    return merge(count_verdicts(verdicts, days, cause).values())


def _splits(
    logs: LogsConfig,
    window: Window,
    time: np.ndarray,
    joined: np.ndarray,
    labels: Mapping[str, np.ndarray],
    files: Sequence[LogFile],
    sample: _Sample,
) -> dict[str, SplitCheck]:
    checks = {}
    first_eval = day_start_ms(logs, window.first_eval_day)
    in_window = [f for f in sample.files if window.first_day <= f.day <= window.last_day]
    per_byte = joined.sum() / max(total_bytes(in_window), 1)
    for split, first, end in (
        ("train", window.first_day, window.first_eval_day),
        ("eval", window.first_eval_day, window.last_day + _DAY),
    ):
        of_split = joined & ((time >= first_eval) == (split == "eval"))
        size = total_bytes(f for f in files if first <= f.day < end)
        checks[split] = SplitCheck(
            days=(end - first).days,
            rows=int(of_split.sum()),
            estimated_rows=round(per_byte * size),
            labels={event: int((of_split & label).sum()) for event, label in labels.items()},
        )
    return checks


def _problems(
    samples: Mapping[str, _Sample], logs: LogsConfig, specs: Mapping[str, LogSpec], features: Sequence[Feature]
) -> tuple[str, ...]:
    problems = [problem for sample in samples.values() for problem in sample.problems]
    counts = merge(sample.counts for sample in samples.values())
    for check in (lambda: check_columns(counts, specs, features), lambda: check_rejected(counts, logs)):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return tuple(problems)


def _check(sample: _Sample, outcomes: dict[str, dict[str, int]], matched: float | None) -> LogCheck:
    counts = sample.counts.get("logs", {}).get(sample.spec.log, {"rejected": {}, "names": {}})
    rejected = [
        Rejection(reason, column, found["rows"], example_text(found["example"]))
        for reason, columns in counts["rejected"].items()
        for column, found in columns.items()
    ]
    table = sample.table()
    return LogCheck(
        log=sample.spec.log,
        files=len(sample.files),
        rows=sample.rows,
        complete=sample.complete,
        rejected=tuple(sorted(rejected, key=lambda r: -r.rows)),
        columns=tuple(_check_column(c, table.column(c.name), sample.types) for c in sample.spec.columns),
        unused=tuple(sorted(set(counts["names"]) - set(sample.spec.sources))),
        outcomes=outcomes,
        matched=matched,
    )


def _check_column(column: Column, values: pa.ChunkedArray, types: Mapping[str, Mapping[str, None]]) -> ColumnCheck:
    rows = max(len(values), 1)
    missing = values.null_count / rows if column.source in types else 1.0
    if column.kind == "id_list":
        empty = pc.sum(pc.equal(pc.list_value_length(values), 0)).as_py() or 0
        missing += empty / rows
        values = pc.list_flatten(values)
    found = values.drop_null()
    summary: dict[str, float] = {}
    if column.kind in ("number", "time"):
        if len(found):
            numbers = found.to_numpy()
            summary = {n: float(f(numbers)) for n, f in (("min", np.min), ("median", np.median), ("max", np.max))}
    else:
        common = Counter(dict(zip(*(found.value_counts().flatten()[i].to_pylist() for i in (0, 1)))))
        summary = {value: count / rows for value, count in common.most_common(_COMMON_VALUES)}
    return ColumnCheck(
        name=column.name,
        column=column.source,
        kind=column.kind,
        types=tuple(types.get(column.source, ())),
        missing=missing,
        distinct=pc.count_distinct(found).as_py(),
        values=summary,
    )
