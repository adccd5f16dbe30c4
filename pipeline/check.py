"""What `seesaw check` tells of a configuration and a sample of its logs, before any long run."""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.log_example_gen.sample import ColumnCheck, Inspection, LogCheck
from models.features import BucketedFeature, NumberFeature, Vocabulary
from models.ranker import Ranker
from pipeline.config import Config
from pipeline.progress import days_text, say

_OUTCOMES = ("joined", "rejected", "duplicate", "orphan", "outside_window", "not_mature")
_RARE = 0.01


class Parameters(NamedTuple):
    """Numbers of trainable parameters."""

    embeddings: int
    dense: int


def estimate_parameters(config: Config, inspection: Inspection) -> Parameters:
    """Parameters of the ranker that would be trained; vocabularies are as large as in the sample."""
    distinct = {c.name: c.distinct for c in inspection.logs[0].columns}
    embeddings = 0
    for feature in config.features:
        if isinstance(feature, NumberFeature) or feature.table != feature.name:
            continue
        if isinstance(feature, BucketedFeature):
            cuts = len(feature.boundaries) if feature.boundaries is not None else (feature.quantiles or 0) - 1
            rows = 2 + cuts
        elif feature.hash_buckets:
            rows = 1 + feature.hash_buckets
        else:
            vocabulary = feature.vocabulary or Vocabulary()
            known = distinct.get(feature.name, 0)
            rows = 1 + min(known, vocabulary.max_size or known) + vocabulary.oov_buckets
        embeddings += rows * feature.dimension
    one_row = {f.name: 1 for f in config.features}  # the tables themselves may not fit
    ranker = Ranker(config.features, one_row, config.tasks, config.model, config.balancer, config.optimizer)
    tables = sum(int(t.shape.num_elements()) for t in ranker.encoder.tables)
    return Parameters(embeddings, sum(int(w.shape.num_elements()) for w in ranker.trainable_weights) - tables)


def warnings(config: Config, inspection: Inspection) -> list[str]:
    """What would not stop a run, but is most likely not meant."""
    found = []
    if not Path(config.validation.schema_path).exists():
        found.append(
            f"validation.schema: {config.validation.schema_path} does not exist: 'seesaw schema' makes it from the logs"
        )
    columns = {c.name: c for c in inspection.logs[0].columns}
    for feature in config.features:
        column = columns[feature.name]
        where = f"feature '{feature.name}'"
        if column.missing >= 1:
            found.append(f"{where}: no row has a value")
        elif column.missing > 1 - _RARE:
            found.append(f"{where}: only {1 - column.missing:.2%} of the rows have a value")
        elif column.distinct == 1:
            found.append(f"{where}: all rows have the same value")
    for check in inspection.logs[1:]:
        if check.matched is None:
            found.append(f"{check.log}: no row of the sample can be matched with the step before")
        elif check.matched < 0.5:
            found.append(f"{check.log}: only {check.matched:.1%} of the rows match a row of the step before")
    for split, examples in inspection.splits.items():
        for label, count in examples.labels.items():
            if examples.rows and count in (0, examples.rows):
                found.append(f"{split}: label '{label}' is {int(count > 0)} in all {examples.rows:,} examples")
    return found


def render(config: Config, inspection: Inspection, console: Console) -> None:
    """Prints what was found and what would be trained; times are in the zone of the logs."""
    window = inspection.window
    train = days_text(window.first_day, window.first_eval_day - timedelta(days=1))
    console.print(Text.assemble((config.name, "bold"), f": {config.logs.root}"), soft_wrap=True)
    say(console, "training days", train)
    say(console, "evaluation days", days_text(window.first_eval_day, window.last_day))
    complete = all(check.complete for check in inspection.logs)
    say(console, "looked at", days_text(inspection.first_day, inspection.last_day) + ("" if complete else ", in part"))

    _heading(console, "rows of the logs, by what becomes of them")
    console.print(_outcomes_table(inspection.logs))
    if any(check.rejected for check in inspection.logs):
        _heading(console, "rejected rows")
        console.print(_rejections_table(inspection.logs))

    _heading(console, "features and keys of the exposures")
    zone = zoneinfo.ZoneInfo(config.logs.timezone)
    console.print(_columns_table(inspection.logs[0].columns, zone, console.width))
    for check in inspection.logs:
        if check.unused:
            console.print(Text(f"not used, {check.log}: {', '.join(check.unused)}", style="dim"))

    _heading(console, "examples")
    console.print(_examples_table(inspection))

    _heading(console, "what would be trained")
    parameters = estimate_parameters(config, inspection)
    if config.model.interaction is not None:
        say(console, "interaction", _described(config.model.interaction))
    say(console, "trunk", _described(config.model.trunk))
    say(console, "heads", _described(config.model.heads))
    say(console, "balancer", _described(config.balancer))
    say(
        console,
        "parameters",
        f"about {sum(parameters):,}: {parameters.embeddings:,} of embeddings (by the values in the sample), "
        f"{parameters.dense:,} of dense layers",
    )
    found = warnings(config, inspection)
    if found:
        _heading(console, "warnings")
        for text in found:
            console.print(Text(f"- {text}", style="yellow"))
    if inspection.problems:
        _heading(console, "problems that would stop a run")
        for text in inspection.problems:
            console.print(Text(f"- {text}", style="red"))
    if not found and not inspection.problems:
        console.print()
        console.print("nothing found that would stop a run", style="green")


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def _table(*left: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in left:
        table.add_column(heading, no_wrap=True)
    return table


def _outcomes_table(checks: tuple[LogCheck, ...]) -> Table:
    counts = {}
    for check in checks:
        counts[check.log] = {outcome: sum(reasons.values()) for outcome, reasons in check.outcomes.items()}
        counts[check.log]["rejected"] = sum(r.rows for r in check.rejected)
    shown = [o for o in _OUTCOMES if any(of_log.get(o) for of_log in counts.values())]
    table = _table("log")
    for heading in ("rows", *(o.replace("_", "\n") for o in shown), "matched"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for check in checks:
        cells = [f"{counts[check.log].get(outcome, 0):,}" for outcome in shown]
        matched = "" if check.matched is None else f"{check.matched:.1%}"
        table.add_row(check.log, f"{check.rows:,}", *cells, matched)
    return table


def _rejections_table(checks: tuple[LogCheck, ...]) -> Table:
    table = _table("log")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("column", no_wrap=True)
    table.add_column("one of them")
    for check in checks:
        for rejection in check.rejected:
            example = rejection.example.partition("; the row: ")[0].replace(f"column '{rejection.column}': ", "")
            table.add_row(check.log, f"{rejection.rows:,}", rejection.reason, rejection.column, Text(example))
    return table


def _columns_table(columns: tuple[ColumnCheck, ...], zone: zoneinfo.ZoneInfo, width: int) -> Table:
    rows = []
    for column in columns:
        name = column.name if column.name == column.column else f"{column.name} ← {column.column}"
        types = ", ".join(column.types) or "not there"
        rows.append(
            (name, column.kind, types, f"{1 - column.missing:.1%}", f"{column.distinct:,}", _values(column, zone))
        )
    headings = ("name", "kind", "type", "coverage", "distinct", "values")
    # The last column gets what is left; Rich would shorten the others as well.
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(5)]
    room = max(width - sum(widths) - 2 * len(widths), 12)  # two blanks between columns
    table = _table(*headings[:3])
    for heading in headings[3:5]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(headings[5], no_wrap=True, width=room)
    for column, (name, kind, types, share, distinct, values) in zip(columns, rows):
        style = "red" if column.missing >= 1 else "yellow" if column.missing > 1 - _RARE else ""
        coverage = Text(share, style=style)
        table.add_row(
            name, kind, types, coverage, distinct, values if len(values) <= room else values[: room - 1] + "…"
        )
    return table


def _values(column: ColumnCheck, zone: zoneinfo.ZoneInfo) -> str:
    if column.kind == "number":
        return ", ".join(f"{name} {value:g}" for name, value in column.values.items())
    if column.kind == "time":
        at = {name: datetime.fromtimestamp(value / 1000, zone) for name, value in column.values.items()}
        return ", ".join(f"{name} {time:%Y-%m-%d %H:%M}" for name, time in at.items() if name != "median")
    return ", ".join(f"{value} {share:.0%}" if share >= 0.005 else value for value, share in column.values.items())


def _examples_table(inspection: Inspection) -> Table:
    table = _table("split")
    labels = list(next(iter(inspection.splits.values())).labels)
    for heading in ("days", "rows in sample", "rows in a run", *labels):
        table.add_column(heading, justify="right", no_wrap=True)
    for split, examples in inspection.splits.items():
        rates = [f"{examples.labels[label] / examples.rows:.2%}" if examples.rows else "" for label in labels]
        run = f"about {examples.estimated_rows:,}" if examples.estimated_rows else ""
        table.add_row(split, str(examples.days), f"{examples.rows:,}", run, *rates)
    return table


def _described(section: object) -> str:
    """A section of the configuration in a line: its name, then what it is set to."""
    values = section.model_dump(mode="json", exclude_none=True)  # type: ignore[attr-defined]
    name = values.pop("name")
    parts = [f"{key} {value}" for key, value in _flat(values).items()]
    return ", ".join([name, *parts])


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
