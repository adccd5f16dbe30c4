"""Small logs by hand, and runs of LogExampleGen on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import TypeAdapter
from tfx.types import standard_artifacts

from components.log_example_gen import LogReport
from components.log_example_gen.config import AttributionConfig, LogsConfig, SamplingConfig, Window, WindowConfig
from components.log_example_gen.executor import Executor
from components.log_example_gen.window import resolve_window
from models.features import Feature

FORMATS = ("parquet", "csv", "jsonl")


def ms(text: str) -> int:
    """Epoch ms of '2026-01-02 10:00[:00[.000]]' in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


def exposure(request: str, time: str | int, item: str = "i1", user: str = "u1", **columns: Any) -> dict[str, Any]:
    return {"request_id": request, "item_id": item, "user_id": user, "time": _time(time), **columns}


def event(request: str, time: str | int, item: str = "i1", **columns: Any) -> dict[str, Any]:
    return {"request_id": request, "item_id": item, "time": _time(time), **columns}


def _time(time: str | int) -> int:
    return ms(time) if isinstance(time, str) else time


def features(*given: dict[str, Any]) -> tuple[Feature, ...]:
    return TypeAdapter(tuple[Feature, ...]).validate_json(json.dumps([{"side": "item", **f} for f in given]))


def logs_config(root: Path, form: str = "parquet", **settings: Any) -> LogsConfig:
    """Logs as they are by default; settings of a log are given by its name."""
    of_log = {log: settings.pop(log, {}) for log in ("exposures", "clicks", "purchases")}

    def log(name: str, **more: Any) -> dict[str, Any]:
        return {"path": f"{name}/{{date}}/*.{form}", "format": form, **more, **of_log[name]}

    events = {"click": log("clicks"), "purchase": log("purchases", columns={"value": "value"})}
    return LogsConfig.from_json(
        json.dumps({"root": str(root), "exposures": log("exposures"), "events": events, **settings})
    )


def attribution_config(click: str = "30m", purchase: str = "1d", skew: str = "0s") -> AttributionConfig:
    return AttributionConfig.from_json(
        json.dumps({"windows": {"click": click, "purchase": purchase}, "clock_skew": skew})
    )


def window_config(train_days: int = 1, eval_days: int = 1, last_day: str = "latest") -> WindowConfig:
    return WindowConfig.from_json(
        json.dumps({"train_days": train_days, "eval_days": eval_days, "last_day": last_day})
    )


def window_of_days(first: str, first_eval: str, last: str, data_end: str) -> Window:
    return Window(
        first_day=date.fromisoformat(first),
        first_eval_day=date.fromisoformat(first_eval),
        last_day=date.fromisoformat(last),
        data_end_ms=ms(data_end),
    )


def write_file(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
    """Writes rows in the format that the file's name ends with; in CSV text is quoted and null is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in names}), path)
    elif path.suffix == ".csv":
        lines = [",".join(names), *(",".join(_csv(row.get(name)) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps({n: row.get(n) for n in names}) + "\n" for row in rows), encoding="utf-8")
    return path


def _csv(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = "|".join(str(v) for v in value)
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else str(value)


def write_logs(
    root: Path,
    form: str,
    exposures: list[dict[str, Any]],
    clicks: list[dict[str, Any]] = (),
    purchases: list[dict[str, Any]] = (),
    days: tuple[str, ...] = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"),
) -> None:
    """Writes a file per log and day, rows in the folder of the day of their time; every exposure log has a row."""
    for log, rows, columns in (
        ("exposures", exposures, ["request_id", "item_id", "user_id", "time"]),
        ("clicks", clicks, ["request_id", "item_id", "time"]),
        ("purchases", purchases, ["request_id", "item_id", "time", "value"]),
    ):
        names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
        filled = {day: [row for row in rows if ms(day) <= row["time"] < ms(day) + 86_400_000] for day in days}
        for number, day in enumerate(days):
            # A row far from everything, so that no log is empty.
            filler = exposure(f"filler-{day}", f"{day} 00:00", user="filler") if log == "exposures" else None
            if log != "exposures" and number == 1:
                filler = event("filler-lost", f"{day} 00:00")
            write_file(root / log / day / f"part-0.{form}", filled[day] + ([filler] if filler else []), names)


@dataclass
class Run:
    """What a run of LogExampleGen left.

    Attributes:
      report: report.json.
      records: serialized examples per split, in the order of the files.
      rejected: rows of all rejected files.
    """

    report: dict[str, Any]
    records: dict[str, list[bytes]]
    rejected: list[dict[str, Any]]
    examples: Any

    @property
    def rows(self) -> dict[tuple[str, str], dict[str, list]]:
        """Examples by (request_id, item_id), without the fillers; values by column, empty where missing."""
        found = {}
        for records in self.records.values():
            for record in records:
                row = parse_example(record)
                key = row["request_id"][0].decode(), row["item_id"][0].decode()
                if not key[0].startswith("filler"):
                    assert key not in found
                    found[key] = row
        return found


def parse_example(record: bytes) -> dict[str, list]:
    columns = tf.train.Example.FromString(record).features.feature
    return {
        name: list(getattr(column, column.WhichOneof("kind")).value) if column.WhichOneof("kind") else []
        for name, column in columns.items()
    }


def run_executor(
    out: Path,
    logs: LogsConfig,
    features: tuple[Feature, ...] = (),
    window: Window | None = None,
    attribution: AttributionConfig | None = None,
    sampling: SamplingConfig | None = None,
    joined: Path | None = None,
    flags: Sequence[str] = (),
) -> standard_artifacts.Examples:
    """Runs LogExampleGen on logs, and gives its examples; they and the report lie under `out`.

    Args:
      out: folder of the outputs, a new one.
      logs, features, window, attribution, sampling: of the run.
      joined: folder of the joined days; one of the run's own by default.
      flags: of Beam.
    """
    attribution = attribution or attribution_config()
    window = window or resolve_window(logs, attribution, window_config())
    examples, report = standard_artifacts.Examples(), LogReport()
    examples.uri, report.uri = str(out / "examples"), str(out / "report")
    options = PipelineOptions(["--runner=FnApiRunner", *flags])
    context = Executor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(options=options))
    Executor(context).Do(
        {},
        {"examples": [examples], "report": [report]},
        {
            "logs": logs.canonical_json(),
            "attribution": attribution.canonical_json(),
            "sampling": (sampling or SamplingConfig()).canonical_json(),
            "features": json.dumps([f.model_dump(mode="json") for f in features]),
            **{name: str(value) for name, value in window.model_dump(mode="json").items()},
            "inputs_fingerprint": "",
            "joined_uri": str(joined or out / "joined"),
            "join_fingerprint": "",
            "code_fingerprint": "",
        },
    )
    return examples


def run(out: Path, *args: Any, **settings: Any) -> Run:
    """Runs LogExampleGen on logs and reads what it wrote; arguments as for `run_executor`."""
    examples = run_executor(out, *args, **settings)
    return Run(
        report=json.loads((out / "report/report.json").read_text()),
        records={split: read_records(out / f"examples/Split-{split}") for split in ("train", "eval")},
        rejected=[
            row for f in sorted((out / "report/rejected").glob("*.parquet")) for row in pq.read_table(f).to_pylist()
        ],
        examples=examples,
    )


def read_records(directory: Path) -> list[bytes]:
    files = sorted(str(f) for f in directory.iterdir())
    return [r.numpy() for r in tf.data.TFRecordDataset(files)] if files else []
