"""Counts of rows: added up over files and buckets, reconciled, and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from components.log_example_gen.config import LogsConfig, Window
from components.log_example_gen.join import SPLITS, Joined
from components.log_example_gen.parsing import LogSpec, Parsed
from components.log_example_gen.window import EXPOSURES, LogFile
from models.features import Feature
from models.section import UserError

Counts = dict[str, Any]
"""Nested mappings: integers at the ends are added up, texts are examples of which the smallest is kept."""


class ReconciliationError(RuntimeError):
    """Rows were lost or counted twice: a fault of the join and never of its input."""


def merge(counts: Iterable[Counts]) -> Counts:
    """Adds up counts, in any order and grouping."""
    total: Counts = {}
    for more in counts:
        for key, value in more.items():
            if isinstance(value, dict):
                total[key] = merge([total.get(key, {}), value])
            elif isinstance(value, str):
                total[key] = min(total.get(key, value), value)
            else:
                total[key] = total.get(key, 0) + value
    return total


def count_parsed(parsed: Parsed, file: LogFile) -> Counts:
    """Counts of a batch: rows read and rejected, what the columns lack, and an example of each rejection."""
    rejected = parsed.rejected
    read = len(parsed.rows) + len(rejected)
    log: Counts = {"read": read, "rejected": {}, "columns": {}, "names": dict.fromkeys(parsed.names, 1)}
    for row, reason, column, detail, raw in zip(
        *(rejected.column(name).to_pylist() for name in ("row", "reason", "column", "detail", "raw"))
    ):
        counts = log["rejected"].setdefault(reason, {}).setdefault(column or "", {"rows": 0})
        counts["rows"] += 1
        if "example" not in counts:
            text = raw if len(raw) <= 200 else raw[:197] + "..."
            counts["example"] = f"{file.relative} row {row}: {detail}; the row: {text}"
    if parsed.names:
        accepted = len(parsed.rows)
        for name, missing in parsed.missing.items():
            absent = read if name in parsed.absent else 0
            log["columns"][name] = {"rows": read, "absent": absent, "accepted": accepted, "missing": missing}
    return {"logs": {file.log: log}}


def count_joined(joined: Joined, specs: Mapping[str, LogSpec]) -> Counts:
    """Counts of a bucket: outcomes of its rows, and its examples and their labels."""
    events = [log for log in specs if log != EXPOSURES]
    return {
        "outcomes": joined.outcomes,
        "examples": {
            split: {"rows": len(table), "labels": {e: _sum(table.column(e)) for e in events}}
            for split, table in joined.examples.items()
        },
    }


def reconciliation(counts: Counts, specs: Mapping[str, LogSpec], window: Window) -> dict[str, Any]:
    """The report: every row that was read, by its one outcome.

    Raises:
      ReconciliationError: if the sums do not match.
    """
    logs: dict[str, Any] = {}
    for log in specs:
        parsed = counts.get("logs", {}).get(log, {"read": 0, "rejected": {}, "columns": {}})
        outcomes = {k: dict(sorted(v.items())) for k, v in sorted(counts.get("outcomes", {}).get(log, {}).items())}
        rejected = {
            reason: sum(column["rows"] for column in columns.values())
            for reason, columns in sorted(parsed["rejected"].items())
        }
        if rejected:
            outcomes["rejected"] = rejected
        logs[log] = {
            "read": parsed["read"],
            "outcomes": outcomes,
            "columns": {
                name: {"missing": column["missing"], "absent": column["absent"]}
                for name, column in sorted(parsed["columns"].items())
            },
        }
    examples = counts.get("examples", {})
    report = {
        "window": window.model_dump(mode="json"),
        "logs": logs,
        "examples": {
            split: examples.get(split, {"rows": 0, "labels": {log: 0 for log in specs if log != EXPOSURES}})
            for split in SPLITS
        },
    }
    _check_sums(report)
    return report


def _check_sums(report: Mapping[str, Any]) -> None:
    for log, counts in report["logs"].items():
        total = sum(n for reasons in counts["outcomes"].values() for n in reasons.values())
        if total != counts["read"]:
            raise ReconciliationError(f"{log}: {counts['read']} rows were read, but {total} have an outcome: {counts}")
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


def check_rejected(counts: Counts, logs: LogsConfig) -> None:
    """Stops a run whose logs have too many bad rows.

    Raises:
      UserError: with the counts per reason and a row of each.
    """
    for log, parsed in counts.get("logs", {}).items():
        found = [
            (column["rows"], reason, name, column["example"])
            for reason, columns in parsed["rejected"].items()
            for name, column in columns.items()
        ]
        rejected = sum(rows for rows, *_ in found)
        share = rejected / max(parsed["read"], 1)
        if not rejected or (share <= logs.max_rejected and rejected < parsed["read"]):
            continue
        lines = [f"  {rows} {reason}: {example}" for rows, reason, _, example in sorted(found, reverse=True)]
        what = (
            f"all {rejected} rows were rejected"
            if rejected == parsed["read"]
            else f"{rejected} of {parsed['read']} rows were rejected ({share:.1%}, more than "
            f"logs.max_rejected = {logs.max_rejected:.1%})"
        )
        raise UserError("\n".join([f"{log}: {what}:", *lines]))


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
