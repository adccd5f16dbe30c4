"""The page of the watch over the model in service, and what it prints."""

from __future__ import annotations

import math
from pathlib import Path

from markupsafe import Markup
from rich.console import Console

from components.offline_ab.document import CalibrationCurve, Estimate
from components.pages import (
    Banner,
    Cell,
    Series,
    Tone,
    bar,
    cards,
    facts,
    figure,
    folded,
    interval_strip,
    legend,
    line_chart,
    paragraph,
    section,
    table,
    write,
)
from components.pages.page import INK
from pipeline.monitor.checks import Check, State, alerts
from pipeline.monitor.run import PAGE_FILE, Watch
from pipeline.progress import days_text, say

_STATES: dict[State, tuple[str, Tone]] = {
    "fine": ("fine", "plain"),
    "alert": ("alert", "bad"),
    "unknown": ("too little data", "doubt"),
}
_WORST = 15


def write_page(watch: Watch, folder: Path) -> Path:
    """Writes `monitor.html` into a folder, and returns the file."""
    found = alerts(watch.checks)
    title = f"Version {watch.version} of {watch.name} in service"
    data = watch.now.data
    lead = (
        f"{days_text(watch.first_day, watch.last_day)}: {data.rows:,} rows of {data.users:,} users, against its "
        f"evaluation on {days_text(*watch.judged)}: {watch.then.data.rows:,} rows of {watch.then.data.users:,} users."
    )
    if found:
        reasons = [sentence(c) for c in found[:10]] + [f"and {len(found) - 10} more"] * (len(found) > 10)
        banner = Banner(f"{len(found)} limit{'s' * (len(found) > 1)} passed", reasons, "bad")
    else:
        judged = sum(c.limit is not None and c.state != "unknown" for c in watch.checks)
        banner = Banner("All is within its limits", [f"{judged} figures were held against a limit."], "good")
    overall = [c for c in watch.checks if not c.slice and c.metric not in ("calibration", "drift")]
    sliced = [c for c in watch.checks if c.slice]
    parts: list[Markup | Banner] = [banner, _metrics("All rows together", overall)]
    parts.append(_calibration(watch))
    if sliced:
        parts.append(_slices(sliced, watch.new_slices))
    parts += [_drift(watch), _method(watch)]
    return write(Path(folder) / PAGE_FILE, title, lead, parts)


def sentence(check: Check) -> str:
    """A check that raised an alert, in words."""
    limit = f"the limit is {check.limit:g}"
    if check.metric == "drift":
        return f"{check.task}: its distribution is {check.now.value:.4f} away from that of the evaluation; {limit}"
    if check.metric == "calibration":
        return (
            f"{check.name}: predictions are {_number(check.now)} times what happened; it may be off by {check.limit:g}"
        )
    worse = check.change and check.change.value is not None and -check.change.value
    then, now = _number(check.then), _number(check.now)
    return f"{check.name}: {then} when it was judged, {now} now, worse by {worse:.4f}; {limit}"


def render(watch: Watch, page: Path, console: Console) -> bool:
    """Prints the state and the alerts, and tells whether there are any."""
    found = alerts(watch.checks)
    say(console, "in service", f"{watch.name}, version {watch.version}")
    say(console, "days", f"{days_text(watch.first_day, watch.last_day)} ({watch.now.data.rows:,} rows)")
    say(console, "state", f"{len(found)} limits passed" if found else "all is within its limits")
    for check in found:
        say(console, "", f"- {sentence(check)}")
    say(console, "page", str(page))
    return bool(found)


def _metrics(title: str, checks: list[Check]) -> Markup:
    return section(
        title,
        _table(checks),
        note="Right of the middle the model is better now than when it was judged; the dashed line is the limit. An "
        "alert is raised where the whole interval lies left of it. Each metric has a scale of its own.",
    )


def _table(checks: list[Check]) -> Markup:
    reach: dict[str, float] = {}
    for c in checks:
        ends = [abs(v) for v in (c.change.low, c.change.high) if v is not None] if c.change else []
        reach[c.metric] = max([reach.get(c.metric, 0.0), c.limit or 0.0, *ends])
    rows: list[list[Cell | str | Markup]] = []
    for c in checks:
        said, tone = _STATES[c.state]
        rows.append(
            [
                Cell(said, tone, strong=c.state == "alert"),
                c.name,
                _strip(c.change, 1.05 * reach[c.metric], tone, c.limit),
                _signed(c.change),
                _number(c.then),
                _number(c.now),
                f"{c.limit:g}",
            ]
        )
    columns = ["state", "figure", "worse | better", "change", "when judged", "now", "limit"]
    return table(columns, rows, numbers=[3, 4, 5, 6], wrapped=[1])


def _calibration(watch: Watch) -> Markup:
    rows: list[list[Cell | str | Markup]] = []
    for c in watch.checks:
        if c.metric == "calibration":
            said, tone = _STATES[c.state]
            within = "" if c.now.low is None or c.now.high is None else f"{c.now.low:.3f} to {c.now.high:.3f}"
            rows.append([Cell(said, tone, strong=c.state == "alert"), c.task, _number(c.then), _number(c.now), within])
    tasks = list(dict.fromkeys(r.task for r in watch.now.metrics))
    sides = [Series("when judged", (), (), colour=6), Series("now", (), (), colour=0)]
    figures = []
    for task in tasks:
        curves = [next((c for c in e.calibration_curves if (c.task, c.side) == (task, "candidate")), None)
                  for e in (watch.then, watch.now)]  # fmt: skip
        if all(curves):
            figures.append(figure(_curves(curves), f"p{task}"))  # type: ignore[arg-type]
    return section(
        "Calibration",
        table(["state", "task", "when judged", "now", "interval"], rows, numbers=[2, 3, 4]),
        legend(sides),
        cards(*figures),
        note="Mean prediction over the base rate; 1 is right. In the curves, bins of about equal weight: on the dashed "
        "line what was predicted happened.",
    )


def _curves(curves: list[CalibrationCurve]) -> Markup:
    series = []
    for curve, colour in zip(curves, (6, 0)):
        bins = [b for b in curve.bins if b.predicted is not None and b.observed.value is not None]
        series.append(
            Series(
                curve.side,
                [b.predicted or 0.0 for b in bins],
                [b.observed.value or 0.0 for b in bins],
                [(0.0, ((b.observed.high or 0.0) - (b.observed.low or 0.0)) / 2) for b in bins],
                colour=colour,
            )
        )
    top = 1.05 * max((v for s in series for v in (*s.x, *(y + e for y, (_, e) in zip(s.y, s.errors)))), default=1.0)
    ends = (0.0, top or 1.0)
    return line_chart(
        series, x_label="predicted", y_label="observed", x_range=ends, y_range=ends, diagonal=True, marks=True
    )


def _slices(checks: list[Check], new: int) -> Markup:
    def harm(c: Check) -> float:
        return math.inf if c.change is None or c.change.high is None or not c.limit else c.change.high / c.limit

    ordered = sorted(checks, key=harm)
    parts = [_table(ordered[:_WORST])]
    if len(ordered) > _WORST:
        parts.append(folded(f"The other {len(ordered) - _WORST}", _table(ordered[_WORST:])))
    if new:
        parts.append(paragraph(f"{new} slices were not there when the model was judged.", note=True))
    return section(
        "Slices, harm first",
        *parts,
        note="Intervals are wider by Bonferroni's correction for the slices of each task and metric.",
    )


def _drift(watch: Watch) -> Markup:
    checks = [c for c in watch.checks if c.metric == "drift"]
    most = max([c.now.value or 0.0 for c in checks], default=1.0) or 1.0
    rows: list[list[Cell | str | Markup]] = []
    for c in checks:
        said, tone = _STATES[c.state] if c.limit is not None else ("no limit", "plain")
        value = c.now.value or 0.0
        limit = "" if c.limit is None else f"{c.limit:g}"
        rows.append([Cell(said, tone, strong=c.state == "alert"), c.task, bar(value / most, f"{value:.4f}"), limit])
    limited = [row for row, c in zip(rows, checks) if c.limit is not None]
    columns = ["state", "feature", "distance", "limit"]
    parts = [table(columns, limited, numbers=[3])] if limited else [paragraph("No feature has a limit.")]
    if len(rows) > len(limited):
        others = table(columns, rows[len(limited) :], numbers=[3])
        parts.append(folded(f"The {len(rows) - len(limited)} features without a limit", others))
    return section(
        "Drift of features",
        *parts,
        note="Distance of a feature's distribution from that of the evaluation days: the largest difference of a "
        "value's share (L-infinity) for ids, Jensen-Shannon divergence for numbers.",
    )


def _method(watch: Watch) -> Markup:
    now, settings = watch.now, watch.now.settings
    rates = ", ".join(f"{label} {n / max(1, now.data.rows):.4f}" for label, n in now.data.positives.items())
    before = ", ".join(
        f"{label} {n / max(1, watch.then.data.rows):.4f}" for label, n in watch.then.data.positives.items()
    )
    told: dict[str, str | Markup] = {
        "model": Markup("<code>{}</code>").format(now.candidate.source),
        "positives of all rows now": rates,
        "when judged": before,
        "intervals": f"{100 * settings.confidence:g} %, Poisson bootstrap by user, {settings.replicates:,} replicates; "
        "a change's variance is the sum of both days'",
    }
    for name, path in now.links.items():
        told[name] = Markup('<a href="{}">{}</a>').format(Path(path).absolute().as_uri(), path)
    return section("Data and method", facts(told))


def _strip(change: Estimate | None, reach: float, tone: Tone, limit: float | None) -> Markup | str:
    if change is None or change.value is None or change.low is None or change.high is None:
        return ""
    margin = None if not limit else -limit
    return interval_strip(change.low, change.value, change.high, reach, colour=INK[tone], margin=margin)


def _signed(change: Estimate | None) -> str:
    return "" if change is None or change.value is None else f"{change.value:+.4f}".replace("-", "−")


def _number(found: Estimate | None) -> str:
    return "" if found is None or found.value is None else f"{found.value:.4f}"
