"""The reconciliation report as a page: what became of the rows, for people."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from markupsafe import Markup

from components.log_example_gen.config import AttributionConfig, LogsConfig
from components.log_example_gen.join import DELAYS, MORE
from components.log_example_gen.reasons import REASONS
from components.log_example_gen.report import SPLITS
from components.log_example_gen.window import EXPOSURES
from components.pages import (
    Banner,
    Bar,
    Cell,
    bar,
    bar_chart,
    cards,
    facts,
    figure,
    folded,
    paragraph,
    render,
    section,
    stacked_bar,
    swatches,
    table,
)

PAGE_FILE = "report.html"

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


def page(report: Mapping[str, Any], logs: LogsConfig, attribution: AttributionConfig, stopped: str = "") -> str:
    """HTML that needs nothing but itself.

    Args:
      report: as `report.reconciliation` gives it.
      logs: whose limits the rejected rows are held against.
      attribution: whose windows the delays are held against.
      stopped: why the run was stopped; it was not by default.
    """
    found = dict.fromkeys([*COLOURS, *(o for log in report["logs"].values() for o in log["outcomes"])])
    others = [outcome for outcome in found if outcome not in COLOURS]
    colours = {**COLOURS, **dict(zip(others, _OTHER_COLOURS * len(found)))}
    days = _days_of_splits(report["window"])
    lead = f"Training days {days['train']}, evaluation days {days['eval']}, in the time zone {logs.timezone}."
    parts: list[Markup | Banner] = [
        _banner(report, list(remarks(report, logs, attribution)), stopped),
        _examples(report, days),
        _by_log(report, colours),
        _by_day(report, colours),
        section(
            "Delays",
            cards(*(_delays(event, report, attribution.windows[event]) for event in report["delays"])),
            note="Time from the cause to the event that follows from it (from the exposure to the first step, and from "
            "each step to the next), on edges that grow like a logarithm. If the bars are still high where the window "
            "ends, or many rows come after it, the window is too short.",
        ),
        _rejected(report, logs.rejection_limits),
        _missing(report),
    ]
    return render("What became of every row", lead, parts)


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


def _banner(report: Mapping[str, Any], found: Sequence[str], stopped: str) -> Banner:
    rows = sum(counts["read"] for counts in report["logs"].values())
    accounted = f"Each of the {rows:,} rows that were read has exactly one outcome"
    if stopped:
        return Banner("The run was stopped.", [*stopped.splitlines(), *found], "bad")
    if not found:
        return Banner(f"All is well. {accounted}.", (), "good")
    things = "thing" if len(found) == 1 else "things"
    return Banner(f"{len(found)} {things} to look at. {accounted}, and no limit was passed, but:", found, "doubt")


def _examples(report: Mapping[str, Any], days: Mapping[str, str]) -> Markup:
    events = list(report["examples"]["train"]["labels"])
    rows = []
    for split in SPLITS:
        examples = report["examples"][split]
        labels = (
            text
            for n in examples["labels"].values()
            for text in (f"{n:,}", _share(n / examples["rows"] if examples["rows"] else 0))
        )
        rows.append([split, days[split], f"{examples['rows']:,}", *labels])
    head = ["examples", "days", "rows", *(name for event in events for name in (event, "rate"))]
    left_out = sum(report["logs"][EXPOSURES]["outcomes"].get("sampled_out", {}).values())
    sampled = (
        f"{left_out:,} exposures of the training days were left out by sampling; the weights of the others stand for "
        "them. The rates of the training days are those of the sample."
    )
    shown = table(head, rows, numbers=range(2, len(head)))
    return section("Examples", shown, *([paragraph(sampled, note=True)] if left_out else []))


def _by_log(report: Mapping[str, Any], colours: Mapping[str, str]) -> Markup:
    rows, reasons = [], []
    for log, counts in report["logs"].items():
        read = counts["read"]
        by_outcome = {o: sum(counts["outcomes"].get(o, {}).values()) for o in colours}
        parts = [_part(o, n, n / max(read, 1), colours) for o, n in by_outcome.items() if n]
        shares = (_count(n, _share(n / max(read, 1)), counts["outcomes"].get(o, {})) for o, n in by_outcome.items())
        rows.append(
            [log, f"{len(counts['files']):,}", f"{read:,}", stacked_bar(parts, label=f"{log}: outcomes"), *shares]
        )
        reasons += [
            [log, _words(outcome), f"{n:,}", _reasons(counts["outcomes"][outcome])]
            for outcome, n in by_outcome.items()
            if n
        ]
    head = ["log", "files", "rows", "", *map(_words, colours)]
    return section(
        "By log",
        _key(colours),
        table(head, rows, numbers=(1, 2, *range(4, len(head)))),
        table(
            ["log", "outcome", "rows", "by reason"],
            reasons,
            numbers=[2],
            wrapped=[3],
            caption="Outcomes and their reasons",
        ),
    )


def _by_day(report: Mapping[str, Any], colours: Mapping[str, str]) -> Markup:
    """The bar of a day is in proportion to the longest one of the log in the window."""
    window = report["window"]
    tables = []
    for log, counts in report["logs"].items():
        there = [outcome for outcome in colours if outcome in counts["outcomes"]]
        most = max((n for day, n in _rows_by_day(counts).items() if _split(day, window)), default=0)
        rows = []
        for day, outcomes in counts["days"].items():
            by_outcome = {o: sum(outcomes.get(o, {}).values()) for o in there}
            total = sum(by_outcome.values())
            parts = [_part(o, n, n / most, colours) for o, n in by_outcome.items() if n] if total <= most else []
            numbers = (_count(n, f"{n:,}", outcomes.get(o, {})) for o, n in by_outcome.items())
            rows.append([day, _split(day, window), stacked_bar(parts, label=day), f"{total:,}", *numbers])
        sums = (f"{sum(counts['outcomes'][o].values()):,}" for o in there)
        head = ["day", "", "", "rows", *map(_words, there)]
        shown = table(
            head,
            rows,
            numbers=range(3, len(head)),
            caption=log,
            total=["all days", "", "", f"{counts['read']:,}", *sums],
        )
        tables.append(shown)
    return section(
        "By day",
        _key(colours),
        *tables,
        note="An event counts on the day of the exposure that it belongs to, any other row on its own day, a rejected "
        "row on the day of its file. Days without a mark are not in the window; their files are read for late rows and "
        "for events that cross midnight.",
    )


def _part(outcome: str, rows: int, share: float, colours: Mapping[str, str]) -> Bar:
    return Bar(outcome, share, colours[outcome], hint=f"{_words(outcome)}: {rows:,}")


def _count(rows: int, text: str, reasons: Mapping[str, int]) -> Cell | str:
    return Cell(text, hint=_reasons(reasons)) if rows else Cell(Markup('<span class="unit">{}</span>').format(text))


def _key(colours: Mapping[str, str]) -> Markup:
    return swatches({_words(outcome): colour for outcome, colour in colours.items()})


def _words(name: str) -> str:
    return name.replace("_", " ")


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


def _delays(event: str, report: Mapping[str, Any], window: timedelta) -> Markup:
    """A histogram on the edges of DELAYS, up to the bucket in which the window ends."""
    counts: dict[str, int] = {}
    for of_day in report["delays"][event].values():
        for label, rows in of_day.items():
            counts[label] = counts.get(label, 0) + rows
    window_ms = window / timedelta(milliseconds=1)
    edges = [(label, edge / timedelta(milliseconds=1)) for label, edge in DELAYS.items()] + [(MORE, math.inf)]
    last = next(i for i, (_, edge) in enumerate(edges) if edge >= window_ms)
    total = sum(counts.values())
    late = report["logs"][event]["outcomes"].get("outside_window", {}).get("after_window", 0)
    # Within a bucket the axis is the logarithm of time, as it is from bucket to bucket, roughly.
    low, high = edges[last - 1][1] if last else 1.0, edges[last][1]
    inside = 1.0 if math.isinf(high) else math.log(window_ms / low) / math.log(high / low) if window_ms > low else 0.0
    bars = [
        Bar(
            label,
            counts.get(label, 0),
            COLOURS["joined"],
            f"{100 * counts[label] / total:.0f}%" if counts.get(label) else "",
            f"up to {label}: {counts.get(label, 0):,}",
        )
        for label, _ in edges[: last + 1]
    ]
    # Many late rows would leave the others flat.
    height = min(late, max([*counts.values(), 1]))
    bars.append(Bar("too late", height, COLOURS["outside_window"], f"{late:,}", f"after the window: {late:,}"))
    mark = (last + inside, f"window {_duration(window)}")
    said = f"{_delays_in_words(counts, [label for label, _ in edges], total)} {late:,} came too late."
    return figure(bar_chart(bars, label=f"Delays of {event}", mark=mark), event, said)


def _delays_in_words(counts: Mapping[str, int], labels: Sequence[str], total: int) -> str:
    """Within which edge how many of the events come."""
    if not total:
        return "No event was joined."
    reached = dict(zip(labels, itertools.accumulate(counts.get(label, 0) for label in labels)))
    within = {share: next(label for label, n in reached.items() if n >= share * total) for share in (0.5, 0.9, 0.99)}
    return "{} come within {}, {} within {}, {} within {}.".format(
        *(text for share, label in within.items() for text in (f"{share:.0%}", label))
    )


def _rejected(report: Mapping[str, Any], limits: Mapping[str, float], most: int = 10) -> Markup:
    """Rejected rows by their reason, and the files with the most of them."""
    kinds = [
        (log, counts["read"], kind)
        for log, counts in report["logs"].items()
        for kind in sorted(counts["rejected"], key=lambda kind: -kind["rows"])
    ]
    if not kinds:
        return section("Rejected rows", paragraph("None."))
    rows, examples = [], {}
    for log, read, kind in kinds:
        file, number, detail, raw = kind["example"]
        reason = Cell(kind["reason"], hint=REASONS[kind["reason"]])
        rows.append([log, reason, kind["column"], f"{kind['rows']:,}", _share(kind["rows"] / read)])
        text = Markup("<br><code>{}</code>").format(raw) if raw else ""
        said = " ".join([log, kind["reason"], kind["column"]])
        examples[said.strip()] = Markup("{}, row {:,}: {}{}").format(file, number, detail, text)
    files = [
        (sum(file["rejected"].values()), name, file["read"])
        for counts in report["logs"].values()
        for name, file in counts["files"].items()
        if file["rejected"]
    ]
    of_files = [
        [name, f"{read:,}", bar(rejected / read, f"{rejected:,}")]
        for rejected, name, read in sorted(files, key=lambda file: (-file[0], file[1]))[:most]
    ]
    of_reasons = "".join(f", on {name} {_share(limit)}" for name, limit in limits.items() if name != "total")
    return section(
        "Rejected rows",
        table(["log", "reason", "column", "rows", "of the log"], rows, numbers=(3, 4)),
        folded("One of each kind", facts(examples)),
        table(["file", "rows", "rejected"], of_files, numbers=[1], caption="Files with the most of them"),
        note=Markup(
            "All of them lie in <code>rejected/*.parquet</code> beside this page, each with its file, row, reason, "
            "column and text. The limit on all rejected rows of a log is {}{}."
        ).format(_share(limits["total"]), of_reasons),
    )


def _missing(report: Mapping[str, Any]) -> Markup:
    """Columns that may be missing, the emptiest first."""
    found = []
    for log, counts in report["logs"].items():
        accepted = counts["read"] - sum(counts["outcomes"].get("rejected", {}).values())
        for name, column in counts["columns"].items():
            share = column["missing"] / accepted if accepted else 0.0
            found.append(
                (
                    -share,
                    name,
                    [log, name, f"{column['missing']:,}", bar(share, _share(share)), f"{column['absent']:,}"],
                )
            )
    if not found:
        return section("Missing values", paragraph("No column of these logs may be missing."))
    rows = [row for _, _, row in sorted(found, key=lambda of: of[:2])]
    return section(
        "Missing values",
        table(["log", "column", "missing", "share", "absent"], rows, numbers=(2, 4)),
        note="Share of the rows that were not rejected; a column is absent in the rows of files that do not have it.",
    )


def _share(share: float) -> str:
    return "0%" if share == 0 else "under 0.1%" if share < 0.0005 else f"{share:.1%}"


def _duration(duration: timedelta) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if duration >= timedelta(seconds=size):
            return f"{duration / timedelta(seconds=size):.4g} {unit}"
    return f"{duration.total_seconds():.4g} s"
