"""Runs the simulation day by day and writes logs and truth."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.datasets.folder import is_current, replacing
from pipeline.fingerprint import code_fingerprint
from pipeline.simulator.calendar import Calendar
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.events import DayOfEvents, Events, draw_events
from pipeline.simulator.formats import REASONS, write_log
from pipeline.simulator.history import ClickHistory
from pipeline.simulator.quota import Quota
from pipeline.simulator.traffic import day_of_traffic
from pipeline.simulator.truth import (
    CLICKS,
    EXPOSURES,
    LOGS,
    PURCHASES,
    ROW_SCHEMA,
    TRUTH_FILE,
    auc,
    reconcile,
    rows_file,
)
from pipeline.simulator.world import AGE_GROUPS, COUNTRIES, DEVICES, Exposures, World

_REQUIRED = {
    EXPOSURES: ("request_id", "item_id", "user_id", "time"),
    CLICKS: ("request_id", "item_id", "time"),
    PURCHASES: ("request_id", "item_id", "time"),
}
_TRUTH_COLUMNS = ("_id", "_exposure", "_kind", "_reason", "_late", "_no_device")
_CALIBRATION, _DAYS = 1, 2  # random streams, beside 0 of the world
_UNORDERED_MS = 300_000


def simulate(
    config: SimulationConfig, out: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Writes simulated logs and their truth.

    `out/{exposures,clicks,purchases}/YYYY-MM-DD/*` are the logs, a folder per day. Under `out/truth`:
    `truth.json` (base rates, oracle AUCs, amounts of dirt, the expected reconciliation of the window
    of all days), `probabilities/` (true probability and label of each exposure) and `rows/` (what
    each row of each log is). Nothing appears at `out` before all of it is written.

    Args:
      config: what to simulate. Logs that are there for the same configuration are kept as they are.
      out: folder to make; logs of another simulation there are replaced.
      progress: called with (days done, days in all).

    Returns:
      What truth.json holds.

    Raises:
      UserError: `out` holds something that is not simulated logs.
    """
    out = Path(out)
    manifest = {"simulation": json.loads(config.canonical_json()), "code": code_fingerprint(__name__)}
    if is_current(out, manifest):
        return json.loads((out / "truth" / TRUTH_FILE).read_text())
    with replacing(out, manifest) as folder:
        return _Simulation(config, folder).run(progress)


class _Simulation:
    def __init__(self, config: SimulationConfig, out: Path):
        self.config, self.out = config, out
        self.calendar = Calendar(config.first_day, config.days, config.timezone)
        self.world = World(config)
        rng = np.random.default_rng([config.seed, _CALIBRATION])
        self.world.calibrate(day_of_traffic(self.world, self.calendar, 0, 100_000, 0, rng))
        self.history = ClickHistory(self.world, self.calendar, rng)
        self.pending: dict[str, list[pa.Table]] = {log: [] for log in LOGS}
        self.next_request = 0
        self.next_id = dict.fromkeys(LOGS, 0)
        self.ghosts = 0
        self.quota = Quota()
        self.kinds: dict[str, Counter[str]] = {log: Counter() for log in LOGS}
        self.scores: list[tuple[np.ndarray, ...]] = []

    def run(self, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
        for day in range(self.config.days):
            rng = np.random.default_rng([self.config.seed, _DAYS, day])
            self._draw(day, rng)
            for log in LOGS:
                self._write(log, day, rng)
            if progress:
                progress(day + 1, self.config.days)
        return self._write_truth()

    def _draw(self, day: int, rng: np.random.Generator) -> None:
        """Draws a day's exposures and what follows from them, and puts all of it into `pending`."""
        config, start = self.config, int(self.calendar.starts[day])
        exposures = day_of_traffic(
            self.world, self.calendar, day, config.exposures_per_day, self.next_request, rng
        )
        self.next_request = int(exposures.request.max()) + 1
        ctr, cvr = self.world.probabilities(exposures)
        events = draw_events(config, exposures, ctr, cvr, start, self.quota, rng)

        seen = np.isin(events.clicks.kind, ("clean", "after_window"))
        clicked = events.clicks.exposure[seen]
        self.history.add(exposures.user[clicked], events.clicks.time[seen], exposures.item[clicked])
        table = self._exposure_table(exposures)
        self.history.trim()

        first = self.next_id[EXPOSURES]
        ids = np.arange(first, first + len(exposures))
        self._add(EXPOSURES, day, table, ids, np.full(len(exposures), "clean"), rng)
        for log, rows in ((CLICKS, events.clicks), (PURCHASES, events.purchases)):
            exposure = np.where(rows.exposure < 0, -1, rows.exposure + first)
            self._add(log, day, self._event_table(log, exposures, rows, rng), exposure, rows.kind, rng)
        self._write_probabilities(day, table, ctr, cvr, events)

    def _exposure_table(self, exposures: Exposures) -> pa.Table:
        world, user, item = self.world, exposures.user, exposures.item
        # Requests are told apart by their first row; all items of one see the same history.
        order = np.argsort(exposures.request, kind="stable")
        _, first, request = np.unique(exposures.request[order], return_index=True, return_inverse=True)
        rows = np.empty(len(exposures), np.int64)
        rows[order] = request.reshape(-1)
        first = order[first]
        history = self.history.before(user[first], exposures.time[first])
        weekday = self.calendar.weekdays(exposures.time)
        return pa.table(
            {
                "request_id": _request_ids(exposures.request),
                "item_id": pa.array(item),
                "user_id": pa.array(user),
                "time": pa.array(exposures.time),
                "position": pa.array(exposures.position),
                "device": _names(DEVICES, exposures.device),
                "country": _names(COUNTRIES, world.country[user]),
                "age_group": _names(AGE_GROUPS, world.age_group[user]),
                "hour": pa.array(exposures.hour),
                "weekday": pa.array(weekday),
                "category": _names([f"c{i}" for i in range(self.config.categories)], world.category[item]),
                "seller": pa.array(world.seller[item]),
                "price": pa.array(world.price[item]),
                "history": history.take(pa.array(rows)),
            }
        )

    def _event_table(self, log: str, exposures: Exposures, rows: Events, rng: np.random.Generator) -> pa.Table:
        lost = rows.exposure < 0
        request = exposures.request[np.maximum(rows.exposure, 0)]
        request = np.where(lost, -1 - self.ghosts - np.cumsum(lost), request)
        self.ghosts += int(lost.sum())
        columns = {
            "request_id": _request_ids(request),
            "item_id": pa.array(rows.item),
            "time": pa.array(rows.time),
        }
        if log == PURCHASES:
            quantity = rng.choice((1, 2, 3), len(rows), p=(0.8, 0.15, 0.05))
            columns["value"] = pa.array(np.round(self.world.price[rows.item] * quantity, 2))
        return pa.table(columns)

    def _add(
        self, log: str, day: int, table: pa.Table, exposure: np.ndarray, kind: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Adds duplicates and late arrival, and puts the rows in line for the folders where they belong."""
        dirt, n = self.config.dirt, len(table)
        ids = np.arange(self.next_id[log], self.next_id[log] + n)
        self.next_id[log] += n
        share = dirt.duplicate_exposures if log == EXPOSURES else dirt.duplicate_events
        copies = rng.choice(n, self.quota.take(f"duplicate {log}", share, n), False)
        rows = np.concatenate([np.arange(n), copies]).astype(np.int64)
        time = table["time"].to_numpy()[rows].copy()
        if log == EXPOSURES:  # every other copy has a later time; an event at another time would be another event
            again = np.arange(n, len(rows), 2)
            time[again] = np.minimum(time[again] + rng.integers(1, 5000, len(again)), self.calendar.starts[day + 1] - 1)
        late = np.zeros(len(rows), bool)
        late[rng.choice(len(rows), self.quota.take(f"late {log}", dirt.late, len(rows)), False)] = True
        table = table.take(pa.array(rows)).set_column(
            table.schema.get_field_index("time"), "time", pa.array(time)
        )
        kind = np.concatenate([kind.astype("U16"), np.full(len(copies), "duplicate", "U16")])
        for name, values in (
            ("_id", ids[rows]),
            ("_exposure", exposure[rows]),
            ("_kind", kind),
            ("_reason", np.full(len(rows), "", "U16")),
            ("_late", late),
            ("_no_device", np.zeros(len(rows), bool)),
            ("_folder", self.calendar.index(time) + late),
        ):
            table = table.append_column(name, pa.array(values))
        self.pending[log].append(table)

    def _write(self, log: str, day: int, rng: np.random.Generator) -> None:
        """Writes the folder of a day: what is due, and copies of some rows that cannot be read."""
        config, dirt = self.config, self.config.dirt
        pending = pa.concat_tables(self.pending[log])
        folder = pending["_folder"].to_numpy()
        # What is due after the last day has not arrived when the data end.
        self.pending[log] = [pending.filter(pa.array((folder > day) & (folder < config.days)))]
        due = pending.filter(pa.array(folder == day)).drop(["_folder"])
        late = due["_late"].to_numpy()
        on_time, late_rows = due.filter(pa.array(~late)), due.filter(pa.array(late))

        count = self.quota.take(f"malformed {log}", dirt.malformed, len(due))
        turn = self.kinds[log]["malformed"] + np.arange(count)
        reasons = np.array(REASONS[config.format])[turn % len(REASONS[config.format])]
        broken = _damaged(due, "malformed", reasons, rng)
        count = self.quota.take(f"missing_column {log}", dirt.missing_column, len(due))
        unlabelled = _damaged(due, "missing_column", np.full(count, "missing_column"), rng)
        without_device = np.zeros(len(on_time), bool)
        if log == EXPOSURES:
            count = self.quota.take("missing_feature", dirt.missing_feature, len(on_time))
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
        day_folder = self.out / log / str(self.calendar.date(day))
        for name, table, dropped in files:
            kept = [c for c in columns if c not in dropped]
            reason = table["_reason"].to_numpy().astype("U16")
            write_log(day_folder / f"{name}.{config.format}", table.select(kept), config.format, required, reason)
        self._write_rows(log, day, pa.concat_tables([table for _, table, _ in files]))

    def _write_rows(self, log: str, day: int, rows: pa.Table) -> None:
        path = rows_file(self.out, log, self.calendar.date(day))
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {f.name: rows["time" if f.name == "time" else f"_{f.name}"] for f in ROW_SCHEMA}
        pq.write_table(pa.table(columns, schema=ROW_SCHEMA), path)
        self.kinds[log].update(rows["_kind"].to_pylist())
        for name in ("late", "no_device"):
            self.kinds[log][name] += int(columns[name].to_numpy().sum())

    def _write_probabilities(
        self, day: int, table: pa.Table, ctr: np.ndarray, cvr: np.ndarray, events: DayOfEvents
    ) -> None:
        path = self.out / "truth" / "probabilities" / f"{self.calendar.date(day)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        truth = table.select(["request_id", "item_id", "user_id", "time"])
        for name, values in (
            ("true_ctr", ctr),
            ("true_cvr", cvr),
            ("click", events.clicked.astype(np.int8)),
            ("purchase", events.purchased.astype(np.int8)),
        ):
            truth = truth.append_column(name, pa.array(values))
        pq.write_table(truth, path)
        self.scores.append((ctr, cvr, events.clicked, events.purchased))

    def _write_truth(self) -> dict[str, Any]:
        config = self.config
        ctr, cvr, click, purchase = (np.concatenate(part) for part in zip(*self.scores))
        windows = {"click": config.click_window, "purchase": config.purchase_window}
        # Evaluation starts on the last day whose labels are final, where there is one.
        final = config.last_day - timedelta(math.ceil(sum(windows.values(), config.clock_skew) / timedelta(days=1)))
        days = config.first_day, final if final >= config.first_day else config.last_day, config.last_day
        data_end_ms = int(self.calendar.starts[-1])
        truth: dict[str, Any] = {
            "config": json.loads(config.canonical_json()),
            "exposures": len(ctr),
            "ctr": float(click.mean()),
            "cvr": float(purchase.sum() / max(click.sum(), 1)),
            "oracle_auc": {
                "ctr": auc(ctr, click),
                "cvr": auc(cvr[click], purchase[click]),
                "ctcvr": auc(ctr * cvr, purchase),
            },
            "rows": {log: dict(sorted(kinds.items())) for log, kinds in self.kinds.items()},
            "window": {
                **dict(zip(("first_day", "first_eval_day", "last_day"), map(str, days))),
                "data_end_ms": data_end_ms,
            },
        }
        path = self.out / "truth" / TRUTH_FILE
        path.write_text(json.dumps(truth))
        truth["reconciliation"] = reconcile(self.out, days, data_end_ms, windows, config.clock_skew)
        path.write_text(json.dumps(truth, indent=1) + "\n")
        return truth


def _damaged(rows: pa.Table, kind: str, reasons: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Copies of some rows that are to be made unreadable, one for each of the reasons."""
    copies = rows.take(pa.array(rng.choice(len(rows), len(reasons), False).astype(np.int64)))
    copies = _replace(_replace(copies, "_kind", kind), "_late", False)
    return copies.set_column(copies.schema.get_field_index("_reason"), "_reason", pa.array(reasons, pa.string()))


def _replace(table: pa.Table, column: str, value: Any) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, column, pa.array([value] * len(table), table.schema.field(column).type))


def _names(names: Any, index: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(list(names))).dictionary_decode()


def _request_ids(numbers: np.ndarray) -> pa.Array:
    """'r17' for request 17 and 'x3' for -3, of which no exposure was logged."""
    prefix = pc.if_else(pa.array(numbers >= 0), "r", "x")
    return pc.binary_join_element_wise(prefix, pa.array(np.abs(numbers)).cast(pa.string()), "")
