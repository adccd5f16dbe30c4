"""Counts of rows: added up over files and buckets, reconciled, and judged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from components.log_example_gen.config import LogsConfig, Window
from components.log_example_gen.join import Joined
from components.log_example_gen.parsing import LogSpec, Parsed
from components.log_example_gen.window import EXPOSURES, LogFile
from models.features import Feature
from models.section import UserError

SPLITS = ("train", "eval")

Counts = dict[str, Any]
"""Nested mappings: integers at the ends are added up; of texts and lists, which are examples, the smallest is kept."""


class ReconciliationError(RuntimeError):
    """Rows were lost or counted twice: a fault of the join and never of its input."""


def merge(counts: Iterable[Counts]) -> Counts:
    """Adds up counts, in any order and grouping."""
    total: Counts = {}
    for more in counts:
        _add(total, more)
    return total


def _add(total: Counts, more: Counts) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _add(total.setdefault(key, {}), value)
        elif isinstance(value, (str, list)):
            total[key] = min(total.get(key, value), value)
        else:
            total[key] = total.get(key, 0) + value


def count_parsed(parsed: Parsed, file: LogFile) -> Counts:
    """Counts of a batch: rows read and rejected, what the columns lack, and an example of each rejection."""
    rejected = parsed.rejected
    read = len(parsed.rows) + len(rejected)
    log: Counts = {"read": read, "rejected": {}, "columns": {}, "names": dict.fromkeys(parsed.names, 1)}
    of_file: dict[str, Any] = {"day": file.day.isoformat(), "read": read, "rejected": {}}
    for reason, column, rows, first in _kinds(rejected):
        row, detail, raw = (rejected.column(name)[first].as_py() for name in ("row", "detail", "raw"))
        raw = raw if len(raw) <= 200 else raw[:197] + "..."
        log["rejected"].setdefault(reason, {})[column] = {"rows": rows, "example": [file.relative, row, detail, raw]}
        of_file["rejected"][reason] = of_file["rejected"].get(reason, 0) + rows
    if parsed.names:
        accepted = len(parsed.rows)
        for name, missing in parsed.missing.items():
            absent = read if name in parsed.absent else 0
            log["columns"][name] = {"rows": read, "absent": absent, "accepted": accepted, "missing": missing}
    return {"logs": {file.log: {**log, "files": {file.relative: of_file}}}}


def _kinds(rejected: pa.Table) -> Iterator[tuple[str, str, int, int]]:
    """Per reason and column ('' for none) of rejected rows: how many there are, and the position of the first."""
    if len(rejected):
        rows = rejected.select(["reason", "column", "row"]).append_column("at", pa.array(np.arange(len(rejected))))
        kinds = rows.group_by(["reason", "column"]).aggregate([("row", "count"), ("at", "min")])
        for kind in kinds.to_pylist():
            yield kind["reason"], kind["column"] or "", kind["row_count"], kind["at_min"]


def example_text(example: Sequence[Any]) -> str:
    """A rejected row of the counts, in a line."""
    file, row, detail, raw = example
    return f"{file} row {row}: {detail}" + (f"; the row: {raw}" if raw else "")


def count_joined(joined: Joined, specs: Mapping[str, LogSpec], sampled: Collection[date] = ()) -> Counts:
    """Counts of a bucket: outcomes of its rows, its examples and their labels, and delays of events; all by day.

    Args:
      joined: the bucket.
      specs: the logs.
      sampled: the days of which a sample is kept.
    """
    events = [log for log in specs if log != EXPOSURES]
    examples, left_out = {}, {}
    for day in joined.examples:
        table = joined.training[day] if day in sampled else joined.examples[day]
        examples[day.isoformat()] = {"rows": len(table), "labels": {e: _sum(table.column(e)) for e in events}}
    days = {day.isoformat() for day in sampled}
    for log, by_day in joined.sampled_out.items():
        left_out[log] = {
            day: {"joined": {"": -count}, "sampled_out": {"": count}} for day, count in by_day.items() if day in days
        }
    outcomes = merge([joined.outcomes, left_out])
    return {"outcomes": outcomes, "delays": joined.delays, "examples": examples}


def reconciliation(counts: Counts, specs: Mapping[str, LogSpec], window: Window) -> dict[str, Any]:
    """The report: every row that was read, by its one outcome.

    A rejected row counts in the day of its file, as its time may be what is wrong with it.

    Args:
      counts: those of `count_parsed` of all files and of `count_joined` of all buckets, merged.
      specs: the logs.
      window: the window.

    Raises:
      ReconciliationError: if the sums do not match.
    """
    first_eval = window.first_eval_day.isoformat()
    logs = {}
    for log in specs:
        parsed = counts.get("logs", {}).get(log, {"read": 0, "rejected": {}, "columns": {}, "files": {}})
        of_files = (
            {of_file["day"]: {"rejected": of_file["rejected"]}}
            for of_file in parsed["files"].values()
            if of_file["rejected"]
        )
        days = merge([counts.get("outcomes", {}).get(log, {}), *of_files])
        logs[log] = {
            "read": parsed["read"],
            "outcomes": _sorted(merge(days.values())),
            "days": {day: _sorted(outcomes) for day, outcomes in sorted(days.items())},
            "files": _sorted(parsed["files"]),
            "rejected": [
                {"reason": reason, "column": column, "rows": found["rows"], "example": found["example"]}
                for reason, columns in sorted(parsed["rejected"].items())
                for column, found in sorted(columns.items())
            ],
            "columns": {
                name: {"missing": column["missing"], "absent": column["absent"]}
                for name, column in sorted(parsed["columns"].items())
            },
        }
    events = [log for log in specs if log != EXPOSURES]
    examples = counts.get("examples", {})
    report = {
        "window": window.model_dump(mode="json"),
        "logs": logs,
        "delays": {event: counts.get("delays", {}).get(event, {}) for event in events},
        "examples": {
            split: merge(
                [
                    {"rows": 0, "labels": dict.fromkeys(events, 0)},
                    *(found for day, found in examples.items() if (day >= first_eval) == (split == "eval")),
                ]
            )
            for split in SPLITS
        },
    }
    _check_sums(report)
    return report


def _sorted(counts: Counts) -> Counts:
    return {key: _sorted(value) if isinstance(value, dict) else value for key, value in sorted(counts.items())}


def _check_sums(report: Mapping[str, Any]) -> None:
    for log, counts in report["logs"].items():
        total = sum(n for reasons in counts["outcomes"].values() for n in reasons.values())
        if total != counts["read"]:
            raise ReconciliationError(
                f"{log}: {counts['read']} rows were read, but {total} have an outcome: {counts['outcomes']}"
            )
        of_files = sum(of_file["read"] for of_file in counts["files"].values())
        if of_files != counts["read"]:
            raise ReconciliationError(f"{log}: {counts['read']} rows were read, but the files have {of_files}")
    joined = sum(report["logs"][EXPOSURES]["outcomes"].get("joined", {}).values())
    examples = sum(report["examples"][split]["rows"] for split in SPLITS)
    if joined != examples:
        raise ReconciliationError(f"{joined} exposures were joined, but there are {examples} examples")
    for log, counts in report["logs"].items():
        if log != EXPOSURES:
            labels = sum(report["examples"][split]["labels"][log] for split in SPLITS)
            events = sum(counts["outcomes"].get("joined", {}).values())
            if (labels > events) or (events > 0) != (labels > 0):
                raise ReconciliationError(f"{log}: {events} events were joined, but {labels} examples have the label")
            delays = sum(n for day in report["delays"][log].values() for n in day.values())
            sampled_out, forgotten = (
                sum(counts["outcomes"].get(outcome, {}).values()) for outcome in ("sampled_out", "forgotten")
            )
            attributed = events + sampled_out
            # Users who were forgotten after a day was joined are still in its delays.
            if not attributed <= delays <= attributed + forgotten:
                raise ReconciliationError(f"{log}: {attributed} events have a cause, but {delays} a delay")


def check_rejected(counts: Counts, logs: LogsConfig) -> None:
    """Stops a run whose logs have too many bad rows, in total or of a reason.

    Raises:
      UserError: with the log, the limit, and the counts per reason with a row of each.
    """
    for log, parsed in counts.get("logs", {}).items():
        found = sorted(
            (
                (column["rows"], reason, example_text(column["example"]))
                for reason, columns in parsed["rejected"].items()
                for column in columns.values()
            ),
            reverse=True,
        )
        by_reason = {reason: sum(rows for rows, of, _ in found if of == reason) for _, reason, _ in found}
        rejected, read = sum(by_reason.values()), max(parsed["read"], 1)
        problems = []
        if rejected == parsed["read"] and rejected:
            problems.append(f"{log}: all {rejected} rows were rejected:")
        else:
            for name, limit in logs.rejection_limits.items():
                rows = rejected if name == "total" else by_reason.get(name, 0)
                if rows / read > limit:
                    what = "rejected" if name == "total" else f"rejected as {name}"
                    key = "logs.max_rejected" if name == "total" else f"logs.max_rejected.{name}"
                    problems.append(
                        f"{log}: {rows} of {read} rows were {what} ({rows / read:.1%}, more than {key} = {limit:.1%}):"
                    )
        if problems:
            raise UserError("\n".join([*problems, *(f"  {rows} {reason}: {text}" for rows, reason, text in found)]))


def check_columns(counts: Counts, specs: Mapping[str, LogSpec], features: Iterable[Feature]) -> None:
    """Stops a run whose configuration names a column that no file has.

    Raises:
      UserError: naming the feature or key, the column, and the columns that are there.
    """
    owners = {feature.name: f"feature '{feature.name}'" for feature in features}
    for log, spec in specs.items():
        parsed = counts.get("logs", {}).get(log)
        if not parsed or not parsed["names"]:
            continue
        for column in spec.columns:
            if column.source not in parsed["names"]:
                there = ", ".join(parsed["names"])
                owner = owners.get(column.name, f"'{column.name}'") if log == EXPOSURES else f"'{column.name}'"
                raise UserError(f"{log}: {owner} reads column '{column.source}', which no file has; there are: {there}")


def check_examples(report: Mapping[str, Any]) -> None:
    """Stops a run without anything to train on or to evaluate.

    Raises:
      UserError: naming the split and its days, with what became of the rows.
    """
    window = report["window"]
    for split, days in (
        ("train", f"{window['first_day']} up to {window['first_eval_day']}"),
        ("eval", f"{window['first_eval_day']} to {window['last_day']}"),
    ):
        if not report["examples"][split]["rows"]:
            raise UserError(f"{split}: no example from {days}:\n{summary(report)}")


def summary(report: Mapping[str, Any]) -> str:
    """The reconciliation in a line per log."""
    lines = []
    for log, counts in report["logs"].items():
        parts = [
            f"{n} {outcome}{f' ({reason})' if reason else ''}"
            for outcome, reasons in counts["outcomes"].items()
            for reason, n in reasons.items()
        ]
        lines.append(f"{log}: {counts['read']} rows = " + " + ".join(parts or ["0"]))
    for split, counts in report["examples"].items():
        labels = ", ".join(f"{n} {label}" for label, n in counts["labels"].items())
        lines.append(f"{split}: {counts['rows']} examples ({labels})")
    return "\n".join(lines)


def _sum(column: pa.ChunkedArray) -> int:
    return int(column.to_numpy().sum())
