"""Joins logs that do not fit in the memory that the join is given, and says how fast it went and what it took.

    python tests/benchmarks/large_join.py --exposures 20000000 --days 10 --memory-gib 1 --limit-gib 4

Makes Parquet logs (10 % clicks, 1 % purchases) in a temporary folder, joins all their days with LogExampleGen in a
process of its own, checks examples and labels against what was made, and samples the resident memory of that process
and its children. Prints one line of JSON; ends with exit code 1 if the memory went over the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST_DAY = date(2026, 1, 1)
DAY_MS = 86_400_000
FILE_ROWS = 1_000_000
CATEGORIES = pa.array([f"c{i}" for i in range(200)])


def write_logs(root: Path, exposures: int, days: int, seed: int = 0) -> dict[str, int]:
    """Writes the logs; gives how many examples and labels there are."""
    rng = np.random.default_rng(seed)
    start = int(np.datetime64(FIRST_DAY, "ms").astype(np.int64))
    labels = {"rows": 0, "click": 0, "purchase": 0}
    for day in range(days):
        rows = exposures // days + (day < exposures % days)
        for part, begin in enumerate(range(0, rows, FILE_ROWS)):
            n = min(FILE_ROWS, rows - begin)
            number = np.arange(labels["rows"], labels["rows"] + n)
            request = pa.array(number // 10).cast(pa.string())
            item = pa.array(number % 10 + rng.integers(0, 100_000, n) * 10).cast(pa.string())
            # Events come within the hour, and on the day of their exposure.
            at = start + day * DAY_MS + rng.integers(0, DAY_MS - 7_200_000, n)
            shown = {
                "request_id": request,
                "item_id": item,
                "user_id": pa.array((number // 10) % 500_000).cast(pa.string()),
                "time": pa.array(at),
                "category": CATEGORIES.take(pa.array(rng.integers(0, len(CATEGORIES), n))),
                "price": pa.array(np.round(rng.gamma(2.0, 10.0, n), 2)),
            }
            clicked = np.flatnonzero(rng.random(n) < 0.1)
            bought = clicked[rng.random(len(clicked)) < 0.1]
            click_at = at[clicked] + rng.integers(0, 1_800_000, len(clicked))
            buy_at = click_at[np.searchsorted(clicked, bought)] + rng.integers(0, 1_800_000, len(bought))
            for log, chosen, times in (("clicks", clicked, click_at), ("purchases", bought, buy_at)):
                keys = {k: shown[k].take(pa.array(chosen)) for k in ("request_id", "item_id")}
                _write(root, log, day, part, {**keys, "time": pa.array(times), "value": pa.array(np.ones(len(chosen)))})
            _write(root, "exposures", day, part, shown)
            labels["rows"] += n
            labels["click"] += len(clicked)
            labels["purchase"] += len(bought)
    return labels


def _write(root: Path, log: str, day: int, part: int, columns: dict[str, pa.Array]) -> None:
    folder = root / log / (FIRST_DAY + timedelta(days=day)).isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"part-{part:03d}.parquet", row_group_size=1 << 17)


def join(root: Path, out: Path, days: int, flags: list[str]) -> None:
    """Joins all days of the logs, in this process."""
    sys.argv = sys.argv[:1]  # TFX takes the arguments of the process for flags
    from models.runtime import prepare_process

    prepare_process()
    from tfx.types import standard_artifacts

    from components.log_example_gen import LogReport
    from components.log_example_gen.config import AttributionConfig, LogsConfig, Window
    from components.log_example_gen.executor import Executor

    def log(name: str, **columns: str) -> dict:
        return {"path": f"{name}/{{date}}/*.parquet", "columns": columns}

    events = {"click": log("clicks"), "purchase": log("purchases", value="value")}
    logs = LogsConfig.from_json(json.dumps({"root": str(root), "exposures": log("exposures"), "events": events}))
    attribution = AttributionConfig.from_json('{"windows": {"click": "30m", "purchase": "30m"}}')
    last = FIRST_DAY + timedelta(days=days - 1)
    window = Window(
        first_day=FIRST_DAY,
        first_eval_day=last,
        last_day=last,
        data_end_ms=int(np.datetime64(FIRST_DAY, "ms").astype(np.int64)) + (days + 1) * DAY_MS,
    )
    features = [{"name": n, "kind": k, "side": "item"} for n, k in (("category", "id"), ("price", "number"))]
    examples, report = standard_artifacts.Examples(), LogReport()
    examples.uri, report.uri = str(out / "examples"), str(out / "report")
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner", "--sdk_container_image=none", *flags])
    Executor(context).Do(
        {},
        {"examples": [examples], "report": [report]},
        {
            "logs": logs.canonical_json(),
            "attribution": attribution.canonical_json(),
            "sampling": "{}",
            "features": json.dumps(features),
            **{name: str(value) for name, value in window.model_dump(mode="json").items()},
            "joined_uri": str(out / "joined"),
            "join_fingerprint": "",
        },
    )


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started."""
    children: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(stat[1]), []).append(int(entry))
            pages[int(entry)] = int(stat[21])
    found, queue = 0, [pid]
    while queue:
        one = queue.pop()
        found += pages.get(one, 0)
        queue += children.get(one, [])
    return found * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=20_000_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--memory-gib", type=float, default=1.0, help="join.memory_gib")
    parser.add_argument("--limit-gib", type=float, default=4.0, help="most resident memory")
    parser.add_argument(
        "--flag", action="append", default=[], help="flag of Beam, such as --flag=--direct_num_workers=2"
    )
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--join", nargs=2, metavar=("LOGS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    flags = [f"--join_memory_gib={args.memory_gib}", *args.flag]
    if args.join:
        join(Path(args.join[0]), Path(args.join[1]), args.days, flags)
        return
    folder = Path(tempfile.mkdtemp(prefix="large_join", dir=args.folder))
    try:
        expected = write_logs(folder / "logs", args.exposures, args.days)
        size = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
        command = [sys.executable, __file__, *sys.argv[1:], "--join", str(folder / "logs"), str(folder / "out")]
        begin, peak = time.perf_counter(), 0
        process = subprocess.Popen(command)
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            sys.exit(f"the join ended with exit code {process.returncode}")
        report = json.loads((folder / "out/report/report.json").read_text())
        got = {"rows": 0, "click": 0, "purchase": 0}
        for split in report["examples"].values():
            for name, count in {"rows": split["rows"], **split["labels"]}.items():
                got[name] += count
        assert got == expected, f"expected {expected}, got {got}"
        files = len(list((folder / "out/examples").glob("Split-*/*")))
    finally:
        shutil.rmtree(folder)
    result = {
        "exposures": args.exposures,
        "days": args.days,
        "log_gib": round(size / 2**30, 2),
        "join_memory_gib": args.memory_gib,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "rows_per_second": round(args.exposures / seconds),
        "peak_resident_gib": round(peak / 2**30, 2),
        "example_files": files,
        **{f"examples_{name}": count for name, count in got.items()},
    }
    print(json.dumps(result), flush=True)
    sys.exit(peak > args.limit_gib * 2**30)


if __name__ == "__main__":
    main()
