"""The reconciliation report as a page: what became of the rows, for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from importlib.resources import files
from typing import Any

import jinja2

from components.log_example_gen.config import AttributionConfig, LogsConfig
from components.log_example_gen.join import DELAYS, MORE
from components.log_example_gen.reasons import REASONS
from components.log_example_gen.report import SPLITS
from components.log_example_gen.window import EXPOSURES

PAGE_FILE = "report.html"

# The layout is a file of its own, which the fingerprint of the code leaves out: another layout joins nothing again.
_TEMPLATE = "page.html.j2"

COLOURS = {
    "joined": "#2f6db5",
    "duplicate": "#8d96a3",
    "orphan": "#d9902f",
    "outside_window": "#c5d0dc",
    "not_mature": "#8fb8de",
    "rejected": "#c0392b",
}
_OTHER_COLOURS = ("#b9aede", "#3f8f6b", "#b0567f")

NEAR_LIMIT = 0.5
"""A share of rejected rows beyond this part of its limit is worth a look."""
MANY_ORPHANS = 0.05
"""Share of an event's rows of the window without a cause, from which on keys and clocks are worth a look."""
MANY_LATE = 0.05
"""Share of the events with a cause, near its window, from which on the window looks too short."""
FEW_ROWS = 0.5
"""A day with fewer rows than this part of the median day is worth a look."""


def page(report: Mapping[str, Any], logs: LogsConfig, attribution: AttributionConfig) -> str:
    """HTML that needs nothing but itself.

    Args:
      report: as `report.reconciliation` gives it.
      logs: whose limits the rejected rows are held against.
      attribution: whose windows the delays are held against.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(count="{:,}".format, share=_share, words=lambda name: name.replace("_", " "))
    template = environment.from_string(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    outcomes = dict.fromkeys([*COLOURS, *(o for log in report["logs"].values() for o in log["outcomes"])])
    colours = {**dict(zip([o for o in outcomes if o not in COLOURS], _OTHER_COLOURS * len(outcomes))), **COLOURS}
    return template.render(
        window=report["window"],
        timezone=logs.timezone,
        remarks=list(remarks(report, logs, attribution)),
        colours={outcome: colours[outcome] for outcome in outcomes},
        sources=[_source(log, counts, report["window"]) for log, counts in report["logs"].items()],
        rejected=[
            {"log": log, "share": kind["rows"] / counts["read"], "meaning": REASONS[kind["reason"]], **kind}
            for log, counts in report["logs"].items()
            for kind in sorted(counts["rejected"], key=lambda kind: -kind["rows"])
        ],
        limits=logs.rejection_limits,
        bad_files=_bad_files(report),
        delays=[
            _delays(event, report, attribution.windows[event] / timedelta(milliseconds=1)) for event in report["delays"]
        ],
        columns=_columns(report),
        examples=[{"split": split, **report["examples"][split]} for split in SPLITS],
        days=_days_of_splits(report["window"]),
    )


def remarks(report: Mapping[str, Any], logs: LogsConfig, attribution: AttributionConfig) -> Iterator[str]:
    """What an analyst should look at, in a sentence each; none if all is well."""
    for log, counts in report["logs"].items():
        read = max(counts["read"], 1)
        reasons = counts["outcomes"].get("rejected", {})
        for name, limit in logs.rejection_limits.items():
            share = (sum(reasons.values()) if name == "total" else reasons.get(name, 0)) / read
            if share > NEAR_LIMIT * limit and share > 0:
                what = "" if name == "total" else f" as {name}"
                yield f"{log}: {_share(share)} of the rows were rejected{what}; the limit is {_share(limit)}."
        if damaged := reasons.get("unreadable_file", 0):
            yield f"{log}: of {damaged} damaged files a part is lost, and nobody knows how many rows it had."
        orphans = sum(counts["outcomes"].get("orphan", {}).values())
        of_days = max(counts["read"] - counts["outcomes"].get("outside_window", {}).get("other_days", 0), 1)
        if orphans > MANY_ORPHANS * of_days:
            yield f"{log}: {_share(orphans / of_days)} of the rows have no cause. Look at keys, clocks and lost files."
        of_window = {day: n for day, n in _rows_by_day(counts).items() if _split(day, report["window"])}
        median = statistics.median(of_window.values()) if of_window else 0
        for day, rows in of_window.items():
            if rows < FEW_ROWS * median:
                yield f"{log}: {day} has {rows:,} rows, the median day {median:,.0f}. Is a part of the day missing?"
        for name, column in counts["columns"].items():
            if 0 < counts["read"] - sum(reasons.values()) == column["missing"]:
                yield f"{log}: '{name}' is missing in all rows."
        if log != EXPOSURES:
            late = counts["outcomes"].get("outside_window", {}).get("after_window", 0)
            joined = sum(counts["outcomes"].get("joined", {}).values())
            if late > MANY_LATE * (late + joined):
                yield (
                    f"{log}: {_share(late / (late + joined))} of the rows with a cause come after the window of "
                    f"{_duration(attribution.windows[log])}. It may be too short."
                )


def _source(log: str, counts: Mapping[str, Any], window: Mapping[str, Any]) -> dict[str, Any]:
    """A log: its rows by day and outcome. The bar of a day is in proportion to the longest of the window's."""
    most = max((rows for day, rows in _rows_by_day(counts).items() if _split(day, window)), default=0)
    days = []
    for day, outcomes in counts["days"].items():
        by_outcome = {outcome: sum(reasons.values()) for outcome, reasons in outcomes.items()}
        rows = sum(by_outcome.values())
        days.append(
            {
                "day": day,
                "split": _split(day, window),
                "rows": rows,
                "outcomes": by_outcome,
                "reasons": {o: _reasons(reasons) for o, reasons in outcomes.items()},
                "bar": {outcome: n / most for outcome, n in by_outcome.items()} if rows <= most else {},
            }
        )
    return {
        "log": log,
        "read": counts["read"],
        "files": len(counts["files"]),
        "outcomes": {o: sum(reasons.values()) for o, reasons in counts["outcomes"].items()},
        "reasons": {o: _reasons(reasons) for o, reasons in counts["outcomes"].items()},
        "days": days,
    }


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {rows:,}" for reason, rows in reasons.items() if reason)


def _rows_by_day(counts: Mapping[str, Any]) -> dict[str, int]:
    return {
        day: sum(n for reasons in outcomes.values() for n in reasons.values())
        for day, outcomes in counts["days"].items()
    }


def _split(day: str, window: Mapping[str, Any]) -> str:
    if not window["first_day"] <= day <= window["last_day"]:
        return ""
    return "eval" if day >= window["first_eval_day"] else "train"


def _days_of_splits(window: Mapping[str, Any]) -> dict[str, str]:
    last_train_day = date.fromisoformat(window["first_eval_day"]) - timedelta(days=1)
    spans = {
        "train": (window["first_day"], str(last_train_day)),
        "eval": (window["first_eval_day"], window["last_day"]),
    }
    return {split: first if first == last else f"{first} to {last}" for split, (first, last) in spans.items()}


def _bad_files(report: Mapping[str, Any], most: int = 10) -> list[dict[str, Any]]:
    """The files with the most rejected rows."""
    found = [
        {"log": log, "file": name, "read": file["read"], "rejected": sum(file["rejected"].values())}
        for log, counts in report["logs"].items()
        for name, file in counts["files"].items()
        if file["rejected"]
    ]
    return sorted(found, key=lambda file: (-file["rejected"], file["file"]))[:most]


def _delays(event: str, report: Mapping[str, Any], window_ms: float) -> dict[str, Any]:
    """A histogram on the edges of DELAYS, up to the bucket in which the window ends."""
    counts: dict[str, int] = {}
    for of_day in report["delays"][event].values():
        for label, rows in of_day.items():
            counts[label] = counts.get(label, 0) + rows
    edges = [(label, edge / timedelta(milliseconds=1)) for label, edge in DELAYS.items()] + [(MORE, math.inf)]
    last = next(i for i, (_, edge) in enumerate(edges) if edge >= window_ms)
    shown = edges[: last + 1]
    total = sum(counts.values())
    most = max([*counts.values(), 1])
    late = report["logs"][event]["outcomes"].get("outside_window", {}).get("after_window", 0)
    # Within a bucket the axis is the logarithm of time, as it is from bucket to bucket, roughly.
    low, high = shown[last - 1][1] if last else 1.0, shown[last][1]
    inside = 1.0 if math.isinf(high) else math.log(window_ms / low) / math.log(high / low) if window_ms > low else 0.0
    within = []
    running = 0
    for label, _ in edges:
        running += counts.get(label, 0)
        within.append((label, running / total if total else 0.0))
    return {
        "event": event,
        "total": total,
        "late": late,
        "window": _duration(timedelta(milliseconds=window_ms)),
        "window_at": last + inside,
        "buckets": [
            {"label": label, "rows": counts.get(label, 0), "height": counts.get(label, 0) / most} for label, _ in shown
        ],
        "late_height": min(late / most, 1.0),
        "quantiles": [
            (share, next(label for label, reached in within if reached >= share)) for share in (0.5, 0.9, 0.99)
        ]
        if total
        else [],
    }


def _columns(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns that may be missing, the emptiest first."""
    found = []
    for log, counts in report["logs"].items():
        accepted = counts["read"] - sum(counts["outcomes"].get("rejected", {}).values())
        for name, column in counts["columns"].items():
            share = column["missing"] / accepted if accepted else 0.0
            found.append({"log": log, "name": name, "share": share, **column})
    return sorted(found, key=lambda column: (-column["share"], column["name"]))


def _share(share: float) -> str:
    return "0%" if share == 0 else "under 0.1%" if share < 0.0005 else f"{share:.1%}"


def _duration(duration: timedelta) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if duration >= timedelta(seconds=size):
            return f"{duration / timedelta(seconds=size):.4g} {unit}"
    return f"{duration.total_seconds():.4g} s"
