"""Rows per second of the join of logs: Seesaw's beside a naive one in Beam and one of polars.

The logs are made from a seed: two days of exposures of 15 columns (three keys, a time, six ids, five numbers, two of
the columns with gaps), clicks on 10 % of them and purchases of 1 %, a few of both after their windows; files of
250,000 exposures, in Parquet and in CSV. Contenders, each run a process of its own:
- `seesaw, tfrecord`: LogExampleGen's executor as a run has it: parse, reject, deduplicate, attribute, reconcile,
  split by day, tf.Examples. `seesaw, parquet`: the same with Parquet files as its output.
- `beam, element-wise`: dicts, CoGroupByKey, one tf.Example after the other, in the same runner of Beam. It is so
  slow that it gets --part of the exposures; its rows per second are those of that part.
- `polars`: the same labels, lazily read, joined and written as one Parquet file: the floor. It neither checks nor
  counts anything.
Every round runs every contender once, one after the other in turning order. The clock starts after the imports. The
first round checks that all have the same labels, by a sum of hashes over the rows, which does not depend on their
order. Peak memory is that of the process and all its children, sampled 20 times a second.

polars is installed from PyPI into an environment under --work.

    python tests/benchmarks/log_join.py

The last line printed is JSON. The exit code is 0 where, from Parquet, Seesaw joins at least 25 times as many rows per
CPU second as the naive join to tf.Examples, an eighth of polars' rows per second to tf.Examples and a fifth to Parquet,
in at most 2.5 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import tensorflow as tf
from environments import REPOSITORY, last_line, python_with
from log_join_common import CLICK_WINDOW_MS, PURCHASE_WINDOW_MS, Task
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
FIRST_DAY, LAST_DAY = "2026-01-01", "2026-01-02"
DAY_MS = 86_400_000
FIRST_MS = 1_767_225_600_000
FILE_ROWS = 250_000
GIB = 1 << 30
TARGETS = {"times_naive_by_cpu": 25.0, "of_polars_tfrecord": 1 / 8, "of_polars_parquet": 1 / 5, "peak_gib": 2.5}


@dataclass(frozen=True)
class Contender:
    """A way to join: its worker, what it writes, the share of the rows that it gets, what to install for it."""

    name: str
    script: str
    output: str
    in_part: bool = False
    requirements: tuple[str, ...] = ()
    beam: tuple[str, ...] = ()


CONTENDERS = (
    Contender("seesaw, tfrecord", "log_join_seesaw.py", "tfrecord"),
    Contender("seesaw, parquet", "log_join_seesaw.py", "parquet"),
    Contender("beam, element-wise", "log_join_beam.py", "tfrecord", in_part=True),
    Contender("polars", "log_join_polars.py", "parquet", requirements=("polars==2.0.0",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "log_join")
    parser.add_argument("--rows", type=int, default=2_000_000, help="exposures")
    parser.add_argument("--part", type=int, default=100_000, help="exposures of the naive join")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", choices=("parquet", "csv"), default=["parquet", "csv"])
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CONTENDERS], help="contenders; all by default")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pythons, missing = {}, {}
    for contender in CONTENDERS:
        if contender.name in (arguments.only or (contender.name,)):
            wanted = contender.requirements
            try:
                folder = arguments.work / contender.name
                pythons[contender] = python_with(wanted, folder, console) if wanted else Path(sys.executable)
            except (subprocess.CalledProcessError, OSError) as error:
                missing[contender.name] = last_line(error)
                console.print(f"{contender.name} is left out, it cannot be installed: {missing[contender.name]}")
    logs = {rows: make_logs(arguments.work, rows, console) for rows in {arguments.rows, arguments.part}}

    runs: dict[str, dict[str, list[dict]]] = {f: {c.name: [] for c in pythons} for f in arguments.formats}
    sums: dict[int, set[int]] = {rows: set() for rows in logs}
    for number in range(arguments.rounds):
        for form in arguments.formats:
            turn = number % len(pythons)
            for contender in [*pythons][turn:] + [*pythons][:turn]:
                rows = arguments.part if contender.in_part else arguments.rows
                run, out = join(contender, pythons[contender], logs[rows], form, arguments.work)
                runs[form][contender.name].append({**run, "rows": rows})
                console.print(
                    f"round {number + 1}, {form}, {contender.name}: {rows / run['wall']:,.0f} rows/s, "
                    f"CPU {run['cpu']:.1f} s, peak {run['peak_bytes'] / GIB:.2f} GiB"
                )
                if number == 0:
                    sums[rows].add(labels_checksum(out, contender.output))
    for contender in (c for c in pythons if not c.in_part):  # the labels of the part, by those that were timed on all
        if any(c.in_part for c in pythons) and arguments.part != arguments.rows:
            _, out = join(contender, pythons[contender], logs[arguments.part], arguments.formats[0], arguments.work)
            sums[arguments.part].add(labels_checksum(out, contender.output))

    result: dict = {
        "benchmark": "log_join",
        **{k: getattr(arguments, k) for k in ("rows", "part", "rounds")},
        "cores": os.cpu_count(),
        "not_installed": missing,
        "same_labels": all(len(found) <= 1 for found in sums.values()),
        "formats": {form: summary(of_form) for form, of_form in runs.items()},
    }
    result["targets"] = targets(result)
    report(result, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    print(json.dumps(result))
    sys.exit(0 if result["same_labels"] and all(t["reached"] for t in result["targets"].values()) else 1)


def make_logs(work: Path, rows: int, console: Console) -> Path:
    """The logs, made where they are not there yet."""
    folder = (work / f"logs-{rows}").resolve()
    if (folder / "done").exists():
        return folder
    console.print(f"making {rows:,} exposures in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(1)
    time_ms = FIRST_MS + np.sort(rng.integers(0, 2 * DAY_MS, rows))
    request = pc.binary_join_element_wise("request-", pa.array(np.arange(rows) // 10).cast(pa.string()), "")
    # Rows of a request have items of their own, so a key comes once.
    item = rng.integers(0, 20_000, rows) * 10 + np.arange(rows) % 10

    def gaps(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=rng.random(rows) < 0.05)

    def words(*of: str) -> pa.Array:
        return pa.array(of).take(pa.array(rng.integers(0, len(of), rows)))

    exposures = pa.table(
        {
            "request_id": request,
            "item_id": item,
            "user_id": (np.arange(rows) // 10 * 7919) % 100_003,
            "time": time_ms,
            "position": np.arange(rows) % 10,
            "device": words("phone", "tablet", "web"),
            "country": words("de", "fr", "jp", "br", "in", "us"),
            "category": item % 24,
            "seller": gaps(item % 1999),
            "page": rng.integers(0, 500, rows),
            "price": np.round(rng.lognormal(3, 1, rows), 2),
            "discount": np.round(rng.random(rows), 3),
            "rating": gaps(np.round(rng.uniform(1, 5, rows), 1)),
            "age_days": rng.integers(0, 1000, rows).astype(np.float64),
            "score": rng.standard_normal(rows),
        }
    )
    clicked = np.flatnonzero(rng.random(rows) < 0.1)
    in_time = rng.random(len(clicked)) < 0.95
    delay = np.where(in_time, rng.integers(1000, CLICK_WINDOW_MS, len(clicked)), 2 * CLICK_WINDOW_MS)
    click_ms = time_ms[clicked] + delay
    bought = rng.random(len(clicked)) < 0.1
    in_time = rng.random(int(bought.sum())) < 0.95
    delay = np.where(in_time, rng.integers(1000, PURCHASE_WINDOW_MS, len(in_time)), 2 * PURCHASE_WINDOW_MS)
    key = exposures.select(["request_id", "item_id"])
    clicks = key.take(pa.array(clicked)).append_column("time", pa.array(click_ms))
    purchases = (
        key.take(pa.array(clicked[bought]))
        .append_column("time", pa.array(click_ms[bought] + delay))
        .append_column("amount", pa.array(np.round(rng.lognormal(3, 1, len(in_time)), 2)))
    )
    # Without exposures of a later day, the last ones' labels would not be final.
    later = exposures.slice(0, 1).set_column(3, "time", pa.array([FIRST_MS + 4 * DAY_MS - 1]))
    exposures = pa.concat_tables([exposures, later])
    for log, table in (("exposures", exposures), ("clicks", clicks), ("purchases", purchases)):
        table = table.sort_by("time")
        day = (table.column("time").to_numpy() - FIRST_MS) // DAY_MS
        for number in np.unique(day):
            name = str(np.datetime64(FIRST_DAY) + int(number))
            of_day = table.filter(pa.array(day == number))
            (folder / log / name).mkdir(parents=True)
            for part, start in enumerate(range(0, len(of_day), FILE_ROWS)):
                piece = of_day.slice(start, FILE_ROWS)
                pq.write_table(piece, folder / log / name / f"part-{part}.parquet")
                pyarrow.csv.write_csv(piece, folder / log / name / f"part-{part}.csv")
    (folder / "done").touch()
    return folder


def join(contender: Contender, python: Path, logs: Path, form: str, work: Path) -> tuple[dict, Path]:
    """Runs a contender's worker; what it measured with the peak memory, and the folder that it wrote to."""
    out = (work / "out" / contender.name).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    task = Task(
        logs=str(logs),
        form=form,
        first_day=FIRST_DAY,
        last_day=LAST_DAY,
        out=str(out),
        output=contender.output,
        beam=list(contender.beam),
        result=str(out / "result.json"),
    )
    task.write(out / "task.json")
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")}
    log = out / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, HERE / contender.script, out / "task.json"],
            stdout=output,
            stderr=output,
            env={**variables, "PYTHONPATH": str(REPOSITORY) if not contender.requirements else ""},
        )
        peak = peak_bytes(process)
    if process.returncode:
        tail = "".join(log.read_text().splitlines(keepends=True)[-20:])
        raise SystemExit(f"{contender.name} failed, see {log}:\n{tail}")
    return json.loads(Path(task.result).read_text()) | {"peak_bytes": peak}, out


def peak_bytes(process: subprocess.Popen) -> int:
    """Peak of the resident memory of a process and all that it started, until it ends."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        used = 0
        for member in [root, *_or_nothing(lambda: root.children(recursive=True), [])]:
            used += _or_nothing(lambda member=member: member.memory_info().rss, 0)
        peak = max(peak, used)
        time.sleep(0.05)
    return peak


def _or_nothing(look: Callable, nothing):
    try:
        return look()
    except psutil.Error:
        return nothing


def labels_checksum(out: Path, output: str) -> int:
    """Sum over the rows of a hash of key, labels and value, modulo 2^64: the same in any order of the rows."""
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for request, item, click, purchase, value in _labels(out, output):
            mixed = pd.util.hash_array(request) * np.uint64(3) + pd.util.hash_array(item)
            for part in (click, purchase, np.rint(value * 100).astype(np.int64)):
                mixed = pd.util.hash_array(mixed + part.astype(np.uint64))
            total += mixed.sum()
    return int(total)


def _labels(out: Path, output: str):
    """Batches of request_id and item_id (text), click, purchase and the value of the purchases."""
    names = ("request_id", "item_id", "click", "purchase", "purchase_value")
    if output == "parquet":
        for file in sorted(p for p in out.rglob("*.parquet") if "report" not in p.parts):
            table = pq.read_table(file, columns=list(names))
            request, item = (table.column(n).cast(pa.string()).to_numpy().astype(object) for n in names[:2])
            yield request, item, *(table.column(n).to_numpy() for n in names[2:])
        return
    files = sorted(str(p) for p in out.rglob("*-of-*") if p.is_file())
    spec = {n: tf.io.FixedLenFeature([], t) for n, t in zip(names, (tf.string,) * 2 + (tf.int64,) * 2 + (tf.float32,))}
    for batch in tf.data.TFRecordDataset(files).batch(50_000):
        columns = tf.io.parse_example(batch, spec)
        request, item = (np.array([v.decode() for v in columns[n].numpy()], object) for n in names[:2])
        yield request, item, *(columns[n].numpy() for n in names[2:])


def summary(runs: dict[str, list[dict]]) -> dict:
    """Medians over the rounds."""
    return {
        name: {
            "rows": of_contender[0]["rows"],
            "rows_per_second": float(np.median([r["rows"] / r["wall"] for r in of_contender])),
            "rows_per_cpu_second": float(np.median([r["rows"] / r["cpu"] for r in of_contender])),
            "seconds": float(np.median([r["wall"] for r in of_contender])),
            "cpu_seconds": float(np.median([r["cpu"] for r in of_contender])),
            "peak_gib": float(np.max([r["peak_bytes"] for r in of_contender]) / GIB),
        }
        for name, of_contender in runs.items()
    }


def targets(result: dict) -> dict:
    """What was to be reached, from Parquet where that was run; only of contenders that ran."""
    found = result["formats"].get("parquet", {})
    ours, parquet, naive, polars = (found.get(c.name) for c in CONTENDERS)
    values = {}
    if ours and naive:
        values["times_naive_by_cpu"] = ours["rows_per_cpu_second"] / naive["rows_per_cpu_second"]
    if ours and polars:
        values["of_polars_tfrecord"] = ours["rows_per_second"] / polars["rows_per_second"]
    if parquet and polars:
        values["of_polars_parquet"] = parquet["rows_per_second"] / polars["rows_per_second"]
    if ours:
        values["peak_gib"] = max(
            f[c.name]["peak_gib"] for f in result["formats"].values() for c in CONTENDERS[:2] if c.name in f
        )
    return {
        name: {
            "target": TARGETS[name],
            "found": value,
            "reached": value <= TARGETS[name] if name == "peak_gib" else value >= TARGETS[name],
        }
        for name, value in values.items()
    }


def report(result: dict, console: Console) -> None:
    table = Table(
        title=f"{result['rows']:,} exposures, median of {result['rounds']} rounds, {result['cores']} cores",
        box=None,
        header_style="bold",
    )
    for column in ("logs", "join", "exposures", "rows/s", "rows/CPU s", "seconds", "CPU s", "peak GiB"):
        table.add_column(column, justify="left" if column in ("logs", "join") else "right")
    for form, of_form in result["formats"].items():
        for name, found in of_form.items():
            table.add_row(
                form,
                name,
                f"{found['rows']:,}",
                f"{found['rows_per_second']:,.0f}",
                f"{found['rows_per_cpu_second']:,.0f}",
                f"{found['seconds']:.1f}",
                f"{found['cpu_seconds']:.1f}",
                f"{found['peak_gib']:.2f}",
            )
    console.print(table)
    console.print(f"the element-wise join ran on {result['part']:,} exposures only; its rates are those of that part")
    console.print("labels: the same in all" if result["same_labels"] else "labels DIFFER")
    for name, target in result["targets"].items():
        console.print(
            f"{name}: {target['found']:.3g}, target {target['target']:.3g}: "
            f"{'reached' if target['reached'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
