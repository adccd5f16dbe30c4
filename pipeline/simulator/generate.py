"""Runs the simulation day by day and writes logs and truth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.folder import is_current, replacing
from pipeline.fingerprint import code_fingerprint
from pipeline.simulator.calendar import Calendar
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.events import DayOfEvents, draw_events
from pipeline.simulator.history import ClickHistory
from pipeline.simulator.log_writer import LogWriter
from pipeline.simulator.quota import Quota
from pipeline.simulator.tables import event_table, exposure_table
from pipeline.simulator.traffic import day_of_traffic
from pipeline.simulator.truth import CLICKS, EXPOSURES, LOGS, PURCHASES, TRUTH_FILE, auc, reconcile
from pipeline.simulator.world import World

_CALIBRATION, _DAYS = 1, 2  # random streams, beside 0 of the world


def simulate(config: SimulationConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
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
        self.logs = {log: LogWriter(config, self.calendar, out, log) for log in LOGS}
        self.quota = Quota()
        self.next_request = 0
        self.ghosts = 0
        self.scores: list[tuple[np.ndarray, ...]] = []

    def run(self, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
        for day in range(self.config.days):
            rng = np.random.default_rng([self.config.seed, _DAYS, day])
            self._draw(day, rng)
            for log in self.logs.values():
                log.write(day, rng)
            if progress:
                progress(day + 1, self.config.days)
        return self._write_truth()

    def _draw(self, day: int, rng: np.random.Generator) -> None:
        """Draws a day's exposures and what follows from them, and hands all of it to the logs."""
        config = self.config
        exposures = day_of_traffic(self.world, self.calendar, day, config.exposures_per_day, self.next_request, rng)
        self.next_request = int(exposures.request.max()) + 1
        ctr, cvr = self.world.probabilities(exposures)
        events = draw_events(config, exposures, ctr, cvr, int(self.calendar.starts[day]), self.quota, rng)

        seen = np.isin(events.clicks.kind, ("clean", "after_window"))
        clicked = events.clicks.exposure[seen]
        self.history.add(exposures.user[clicked], events.clicks.time[seen], exposures.item[clicked])
        table = exposure_table(self.world, self.calendar, self.history, exposures)
        self.history.trim()
        self._write_probabilities(day, table, ctr, cvr, events)

        first = day * config.exposures_per_day
        ids = np.arange(first, first + len(exposures))
        self.logs[EXPOSURES].add(day, table, ids, np.full(len(exposures), "clean"), rng)
        for log, rows in ((CLICKS, events.clicks), (PURCHASES, events.purchases)):
            lost = rows.exposure < 0
            request = np.where(lost, -1 - self.ghosts - np.cumsum(lost), exposures.request[rows.exposure])
            self.ghosts += int(lost.sum())
            table = event_table(request, rows.item, rows.time)
            if log == PURCHASES:
                quantity = rng.choice((1, 2, 3), len(rows), p=(0.8, 0.15, 0.05))
                table = table.append_column("value", pa.array(np.round(self.world.price[rows.item] * quantity, 2)))
            self.logs[log].add(day, table, np.where(lost, -1, rows.exposure + first), rows.kind, rng)

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
            "rows": {name: dict(sorted(log.kinds.items())) for name, log in self.logs.items()},
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
