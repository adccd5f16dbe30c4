"""Writes a log folder by folder, with the rows that are late, twice, or broken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.simulator.calendar import Calendar
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.formats import REASONS, write_log
from pipeline.simulator.quota import Quota
from pipeline.simulator.truth import CLICKS, EXPOSURES, PURCHASES, ROW_SCHEMA, rows_file

_REQUIRED = {
    EXPOSURES: ("request_id", "item_id", "user_id", "time"),
    CLICKS: ("request_id", "item_id", "time"),
    PURCHASES: ("request_id", "item_id", "time"),
}
_TRUTH_COLUMNS = ("_id", "_exposure", "_kind", "_reason", "_late", "_no_device")
_UNORDERED_MS = 300_000


class LogWriter:
    """One of the logs. Rows wait here until the folder in which they arrive is written.

    Attributes:
      log: name of the log and of its folder.
      kinds: rows written, by what they are.
    """

    def __init__(self, config: SimulationConfig, calendar: Calendar, out: Path, log: str):
        self.log = log
        self.kinds: Counter[str] = Counter()
        self._config, self._calendar, self._out = config, calendar, out
        self._quota = Quota()
        self._pending: list[pa.Table] = []
        self._next_id = 0

    def add(self, day: int, table: pa.Table, exposure: np.ndarray, kind: np.ndarray, rng: np.random.Generator) -> None:
        """Adds duplicates and late arrival to the rows drawn on a day, and puts them in line for their folders.

        Args:
          day: number of the day.
          table: the log's columns.
          exposure: [rows], id of the exposure that a row belongs to, -1 for none.
          kind: [rows], what each row is.
        """
        log = self.log
        dirt, n = self._config.dirt, len(table)
        ids = np.arange(self._next_id, self._next_id + n)
        self._next_id += n
        share = dirt.duplicate_exposures if log == EXPOSURES else dirt.duplicate_events
        copies = rng.choice(n, self._quota.take("duplicate", share, n), False)
        rows = np.concatenate([np.arange(n), copies]).astype(np.int64)
        time = table["time"].to_numpy()[rows].copy()
        if log == EXPOSURES:  # every other copy has a later time; an event at another time would be another event
            again, midnight = np.arange(n, len(rows), 2), self._calendar.starts[day + 1]
            time[again] = np.minimum(time[again] + rng.integers(1, 5000, len(again)), midnight - 1)
        late = np.zeros(len(rows), bool)
        late[rng.choice(len(rows), self._quota.take("late", dirt.late, len(rows)), False)] = True
        table = table.take(pa.array(rows)).set_column(table.schema.get_field_index("time"), "time", pa.array(time))
        kind = np.concatenate([kind.astype("U16"), np.full(len(copies), "duplicate", "U16")])
        for name, values in (
            ("_id", ids[rows]),
            ("_exposure", exposure[rows]),
            ("_kind", kind),
            ("_reason", np.full(len(rows), "", "U32")),
            ("_late", late),
            ("_no_device", np.zeros(len(rows), bool)),
            ("_folder", self._calendar.index(time) + late),
        ):
            table = table.append_column(name, pa.array(values))
        self._pending.append(table)

    def write(self, day: int, rng: np.random.Generator) -> None:
        """Writes the folder of a day: what is due, and copies of some rows that cannot be read."""
        log, config, dirt = self.log, self._config, self._config.dirt
        pending = pa.concat_tables(self._pending)
        folder = pending["_folder"].to_numpy()
        # What is due after the last day has not arrived when the data end.
        self._pending = [pending.filter(pa.array((folder > day) & (folder < config.days)))]
        due = pending.filter(pa.array(folder == day)).drop(["_folder"])
        late = due["_late"].to_numpy()
        on_time, late_rows = due.filter(pa.array(~late)), due.filter(pa.array(late))

        count = self._quota.take("malformed", dirt.malformed, len(due))
        turn = self.kinds["malformed"] + np.arange(count)
        reasons = np.array(REASONS[config.format])[turn % len(REASONS[config.format])]
        broken = _damaged(due, "malformed", reasons, rng)
        count = self._quota.take("missing_column", dirt.missing_column, len(due))
        unlabelled = _damaged(due, "missing_column", np.full(count, "missing_column"), rng)
        without_device = np.zeros(len(on_time), bool)
        if log == EXPOSURES:
            count = self._quota.take("missing_feature", dirt.missing_feature, len(on_time))
            without_device[rng.choice(len(on_time), count, False)] = True
        lacking = _replace(on_time.filter(pa.array(without_device)), "_no_device", True)

        # Rows come roughly in the order of their times.
        main = pa.concat_tables([on_time.filter(pa.array(~without_device)), broken])
        main = main.take(pa.array(np.argsort(main["time"].to_numpy() + rng.integers(0, _UNORDERED_MS, len(main)))))
        files: list[tuple[str, pa.Table, tuple[str, ...]]] = []
        for i, start in enumerate(range(0, max(len(main), 1), config.rows_per_file)):
            files.append((f"part-{i}", main.slice(start, config.rows_per_file), ()))
        if len(lacking):
            files.append((f"part-{len(files)}", lacking, ("device",)))
        required = _REQUIRED[log][day % len(_REQUIRED[log]) :] + _REQUIRED[log][: day % len(_REQUIRED[log])]
        if len(unlabelled):
            files.append((f"part-{len(files)}", unlabelled, required[:1]))
        if len(late_rows):
            files.append(("late-0", late_rows, ()))

        columns = [name for name in main.column_names if name not in _TRUTH_COLUMNS]
        day_folder = self._out / log / str(self._calendar.date(day))
        for name, table, dropped in files:
            kept = [c for c in columns if c not in dropped]
            reason = table["_reason"].to_numpy().astype("U32")
            write_log(day_folder / f"{name}.{config.format}", table.select(kept), config.format, required, reason)
        self._write_rows(day, pa.concat_tables([table for _, table, _ in files]))

    def _write_rows(self, day: int, rows: pa.Table) -> None:
        path = rows_file(self._out, self.log, self._calendar.date(day))
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {f.name: rows["time" if f.name == "time" else f"_{f.name}"] for f in ROW_SCHEMA}
        pq.write_table(pa.table(columns, schema=ROW_SCHEMA), path)
        self.kinds.update(rows["_kind"].to_pylist())
        for name in ("late", "no_device"):
            self.kinds[name] += int(columns[name].to_numpy().sum())


def _damaged(rows: pa.Table, kind: str, reasons: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Copies of some rows that are to be made unreadable, one for each of the reasons."""
    copies = rows.take(pa.array(rng.choice(len(rows), len(reasons), False).astype(np.int64)))
    copies = _replace(_replace(copies, "_kind", kind), "_late", False)
    return copies.set_column(copies.schema.get_field_index("_reason"), "_reason", pa.array(reasons, pa.string()))


def _replace(table: pa.Table, column: str, value: Any) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, column, pa.array([value] * len(table), table.schema.field(column).type))
