"""The page of a comparison, for whoever decides on the candidate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from markupsafe import Markup

from components.offline_ab.document import (
    CalibrationCurve,
    Decision,
    Estimate,
    Evidence,
    Lift,
    MetricResult,
    Outcome,
    RuleResult,
    ScoreHistogram,
    Side,
)
from components.pages import (
    Banner,
    Cell,
    Series,
    Tone,
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

PAGE_FILE = "evidence.html"

_VERDICTS: dict[Decision, tuple[str, Tone]] = {
    "promote": ("Promote {candidate}", "good"),
    "keep": ("Keep {baseline}", "bad"),
    "not_enough_data": ("Keep {baseline}: not enough data to decide", "doubt"),
}
_OUTCOMES: dict[Outcome, tuple[str, Tone]] = {
    "passed": ("passed", "good"),
    "failed": ("failed", "bad"),
    "undecided": ("not shown", "bad"),
    "not_enough_data": ("not enough data", "doubt"),
}
_SIDES: dict[Side, int] = {"baseline": 6, "candidate": 0}
_HEADLINES = ("auc", "log_loss", "calibration_error", "gauc")
_WORST = 15
_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)


def write_page(evidence: Evidence, folder: Path) -> Path:
    """Writes `evidence.html` into a folder, and returns the file."""
    names = {"candidate": evidence.candidate.name, "baseline": evidence.baseline.name if evidence.baseline else ""}
    headline, tone = _VERDICTS[evidence.verdict]
    if evidence.baseline is None:
        headline = "Promote {candidate}, the first" if evidence.verdict == "promote" else "Do not promote {candidate}"
    against = f" against {names['baseline']}" if evidence.baseline else ", without a model to compare with"
    data = evidence.data
    lead = f"{data.rows:,} rows of {data.users:,} users, {_window(evidence)}, {data.requests:,} requests."
    parts: list[Markup | Banner] = [Banner(headline.format(**names), evidence.reasons, tone)]
    if evidence.rules:
        parts.append(_rules(evidence.rules))
    parts += [_overall(evidence), *_slices(evidence), *_curves(evidence)]
    if evidence.off_policy:
        parts.append(_off_policy(evidence))
    if evidence.sample_ratio:
        parts.append(_sample_ratio(evidence))
    parts.append(_method(evidence))
    title = f"{names['candidate']}{against}"
    return write(Path(folder) / PAGE_FILE, title[:1].upper() + title[1:], lead, parts)


def _rules(rules: tuple[RuleResult, ...]) -> Markup:
    reach = _reaches((r.metric, r.gain) for r in rules)
    rows: list[list[Cell | str | Markup]] = []
    for r in rules:
        said, tone = _OUTCOMES[r.outcome]
        strip = _strip(r.gain, reach.get(r.metric, 0.0), tone, -r.margin if r.kind == "non_inferiority" else r.margin)
        rows.append([Cell(said, tone, strong=True), r.text, strip, _interval(r.gain), f"{100 * r.confidence:g} %"])
    return section(
        "Rules",
        table(["outcome", "rule", "worse | better", "interval of the gain", "confidence"], rows, wrapped=[1]),
        note="Right of the middle line the candidate is better; the dashed line is the rule's margin. A rule passes "
        "where the whole interval lies right of its margin.",
    )


def _overall(evidence: Evidence) -> Markup:
    of_all = [m for m in evidence.metrics if not m.slice]
    if evidence.baseline is None:
        alone = [[m.task, m.metric, _number(m.candidate.value), _interval(m.candidate)] for m in of_all]
        return section(
            "Metrics", table(["task", "metric", "value", "interval"], alone, numbers=[2]), note="Of all rows together."
        )
    reach = _reaches((m.metric, m.gain) for m in of_all)
    rows = [_forest_row(m, reach) for m in of_all]
    shown = [row for row, m in zip(rows, of_all) if m.metric in _HEADLINES]
    numbers = range(2, len(_FOREST))
    return section(
        "Differences, all rows together",
        table(_FOREST, shown or rows, numbers=numbers),
        *([folded("All metrics", table(_FOREST, rows, numbers=numbers))] if shown and len(rows) > len(shown) else []),
        note=f"Intervals of {100 * evidence.settings.confidence:g} %, paired and clustered by user. Right of the "
        "middle the candidate is better, whichever way the metric counts; green and red where the whole interval is on "
        "one side. Each metric has a scale of its own. 'Could show': the smallest true difference that this data would "
        "show in 80 % of cases.",
    )


_FOREST = ("task, metric", "worse | better", "difference", "interval", "baseline", "candidate", "could show")


def _forest_row(m: MetricResult, reach: dict[str, float]) -> list[Cell | str]:
    tone = _tone(m.gain)
    difference = m.difference.value if m.difference else None
    return [
        f"{m.task} {m.metric}",
        _strip(m.gain, reach.get(m.metric, 0.0), tone),
        Cell(_signed(difference), tone, strong=tone != "plain"),
        _interval(m.difference),
        _number(m.baseline.value if m.baseline else None),
        _number(m.candidate.value),
        _number(m.smallest_detectable),
    ]


def _slices(evidence: Evidence) -> Iterable[Markup]:
    """A table of the slices' AUC and one, folded, of each other metric; the surest harm first."""
    sliced = [m for m in evidence.metrics if m.slice]
    if not sliced or evidence.baseline is None:
        return
    judged = [m for m in sliced if m.gain and m.gain.high is not None]
    small = len({tuple(m.slice.items()) for m in sliced if not m.enough})
    metrics = list(dict.fromkeys(m.metric for m in judged))
    first = "auc" if "auc" in metrics else next(iter(metrics), None)
    parts: list[Markup] = []
    for metric in metrics:
        of_metric = sorted((m for m in judged if m.metric == metric), key=_harm)
        shown = of_metric[:_WORST] if metric == first else of_metric
        drawn = _slice_table(shown)
        if metric == first:
            parts.insert(0, drawn)
            if len(of_metric) > _WORST:
                parts.insert(
                    1, folded(f"The other {len(of_metric) - _WORST} in {metric}", _slice_table(of_metric[_WORST:]))
                )
        else:
            parts.append(folded(f"By {metric}", drawn))
    if small:
        parts.append(
            paragraph(
                f"{small} slices have fewer than {evidence.settings.minimum_users:,} users or "
                f"{evidence.settings.minimum_positives:,} positives or negatives for a task, and no interval.",
                note=True,
            )
        )
    harmed = [
        m for m in judged if m.metric == first and m.p_adjusted is not None and m.p_adjusted < 0.05 and _harmful(m)
    ]
    named = ", ".join(f"{_slice_name(m.slice)} ({m.task})" for m in harmed[:5]) + (", …" if len(harmed) > 5 else "")
    said = f"Harm that stands after the correction: {named}." if harmed else "No harm stands after the correction."
    yield section(
        "Slices, harm first",
        paragraph(said),
        *parts,
        note="Sorted by the upper end of the interval: what is surely worse comes first. p is of 'no difference', "
        "after Holm's correction for all slices of the task.",
    )


def _slice_table(results: list[MetricResult]) -> Markup:
    reach = _reaches((m.metric, m.gain) for m in results)
    rows: list[list[Cell | str | Markup]] = []
    for m in results:
        tone = _tone(m.gain)
        sure = m.p_adjusted is not None and m.p_adjusted < 0.05
        difference = m.difference.value if m.difference else None
        rows.append(
            [
                _slice_name(m.slice),
                m.task,
                _strip(m.gain, reach[m.metric], tone),
                Cell(_signed(difference), tone, strong=sure),
                _interval(m.difference),
                "" if m.p_adjusted is None else Cell(_p(m.p_adjusted), tone if sure else "plain", strong=sure),
                f"{m.support.rows:,}",
                f"{m.support.users:,}",
            ]
        )
    columns = ["slice", "task", "worse | better", "difference", "interval", "p", "rows", "users"]
    return table(columns, rows, numbers=range(3, 8))


def _curves(evidence: Evidence) -> Iterable[Markup]:
    sides: list[tuple[Side, str]] = [("candidate", evidence.candidate.name)]
    if evidence.baseline:
        sides.insert(0, ("baseline", evidence.baseline.name))
    key = legend([Series(name, (), (), colour=_SIDES[side]) for side, name in sides])
    tasks = list(dict.fromkeys(m.task for m in evidence.metrics))
    if evidence.calibration_curves:
        by_task = {t: [c for c in evidence.calibration_curves if c.task == t] for t in tasks}
        yield section(
            "Calibration",
            key,
            cards(*(figure(_calibration(curves), f"p{task}") for task, curves in by_task.items() if curves)),
            note="Bins of about equal weight: what was predicted and what happened, with 95 % intervals. On the dashed "
            "line both agree; below it the predictions are too high.",
        )
    if evidence.histograms:
        yield section(
            "Scores",
            key,
            cards(*(figure(_histogram(h), f"p{h.task}") for h in evidence.histograms)),
            note="Share of the rows by score, on a scale that is even in the logarithm of the odds.",
        )
    if evidence.lift:
        by_task_lift = {t: [x for x in evidence.lift if x.task == t] for t in tasks}
        yield section(
            "Lift",
            key,
            cards(*(figure(_lift(found), f"p{task}") for task, found in by_task_lift.items() if found)),
            note="Rate of positives in each tenth of the rows, the highest scores first, over the rate of all rows.",
        )


def _calibration(curves: list[CalibrationCurve]) -> Markup:
    series = []
    for curve in curves:
        bins = [b for b in curve.bins if b.predicted is not None and b.observed.value is not None]
        halves = [((b.observed.high or 0.0) - (b.observed.low or 0.0)) / 2 for b in bins]
        series.append(
            Series(
                curve.side,
                [b.predicted or 0.0 for b in bins],
                [b.observed.value or 0.0 for b in bins],
                [(0.0, half) for half in halves],
                colour=_SIDES[curve.side],
            )
        )
    top = 1.05 * max((v for s in series for v in (*s.x, *(y + e for y, (_, e) in zip(s.y, s.errors)))), default=1.0)
    ends = (0.0, top or 1.0)
    return line_chart(
        series, x_label="predicted", y_label="observed", x_range=ends, y_range=ends, diagonal=True, marks=True
    )


def _histogram(found: ScoreHistogram) -> Markup:
    edges = [_log_odds(e) for e in found.edges]
    series = []
    sides: tuple[tuple[Side, tuple[float, ...]], ...] = (("baseline", found.baseline), ("candidate", found.candidate))
    for side, weights in sides:
        total = sum(weights)
        if total:
            # A step for each bin.
            x = [edge for pair in itertools.pairwise(edges) for edge in pair]
            y = [w / total for w in weights for _ in range(2)]
            series.append(Series(side, x, y, colour=_SIDES[side]))
    top = max((v for s in series for v in s.y), default=1.0)
    return line_chart(
        series,
        x_label="score",
        y_label="share of the rows",
        x_range=(edges[0], edges[-1]) if edges[0] < edges[-1] else None,
        y_range=(0.0, 1.05 * top),
        x_ticks=[(_log_odds(t), f"{t:g}") for t in _TICKS],
    )


def _lift(found: list[Lift]) -> Markup:
    tenths = list(range(1, 11))
    series = [
        Series(x.side, tenths, [math.nan if v is None else v for v in x.lift], colour=_SIDES[x.side]) for x in found
    ]
    return line_chart(series, x_label="tenth of the rows, by score", y_label="lift", level=1.0, marks=True)


def _off_policy(evidence: Evidence) -> Markup:
    rows: list[list[Cell | str]] = []
    for p in evidence.off_policy:
        if p.refused:
            rows.append([p.estimator, Cell(f"no value: {p.refused}", "doubt"), "", "", "", ""])
            continue
        rows.append(
            [
                p.estimator,
                "",
                _with_interval(p.baseline),
                _with_interval(p.candidate),
                Cell(_with_interval(p.difference, signed=True), _tone(p.difference)),
                f"{p.effective_sample_size:,.0f} ({p.effective_share:.1%})",
            ]
        )
    first = evidence.off_policy[0]
    columns = ["estimator", "", "baseline", "candidate", "difference", "effective sample size"]
    return section(
        "Off-policy value",
        table(columns, rows, wrapped=[1]),
        note=f"Mean {first.reward} per request if the model had ranked, from {first.requests:,} logged requests "
        f"(logged: {_number(first.logged)}).",
    )


def _sample_ratio(evidence: Evidence) -> Markup:
    found = evidence.sample_ratio
    assert found is not None
    total = sum(a.units for a in found.arms)
    rows = [[a.arm, f"{a.units:,}", f"{a.units / total:.2%}", f"{a.expected_share:.2%}"] for a in found.arms]
    if found.passed:
        banner = Banner(f"The arms of {found.column} have the shares that they were meant to have", (), "good")
    else:
        banner = Banner(
            f"The arms of {found.column} do not have their shares",
            ["Something is wrong with the traffic or the logs: find it before you trust any comparison of the arms."],
            "bad",
        )
    return section(
        "Sample ratio",
        banner,
        table(["arm", found.units, "share", "meant"], rows, numbers=[1, 2, 3]),
        note=f"Chi-square {found.statistic:.2f}, p {_p(found.p_value)}; the check fails below {found.limit:g}.",
    )


def _method(evidence: Evidence) -> Markup:
    data, settings = evidence.data, evidence.settings
    told: dict[str, str | Markup] = {
        "candidate": _scorer(evidence.candidate.name, evidence.candidate.source),
        "baseline": _scorer(evidence.baseline.name, evidence.baseline.source) if evidence.baseline else "none",
        "window": _window(evidence),
        "rows": f"{data.rows:,} of {data.users:,} users in {data.requests:,} requests",
        "positives": ", ".join(f"{label} {n:,}" for label, n in data.positives.items()),
    }
    missing = {label: n for label, n in data.missing.items() if n}
    if missing:
        told["rows without a label"] = ", ".join(f"{label} {n:,}" for label, n in missing.items())
    told["intervals"] = (
        f"{100 * settings.confidence:g} %, Poisson bootstrap by user, {settings.replicates:,} replicates, "
        f"seed {settings.seed}"
    )
    told["minimum of a slice"] = (
        f"{settings.minimum_users:,} users, {settings.minimum_positives:,} positives and negatives"
    )
    if evidence.delong:
        told["AUC by DeLong, rows taken for independent"] = "; ".join(
            f"{d.task} {_with_interval(d.difference, signed=True)}" for d in evidence.delong
        )
    for name, path in evidence.links.items():
        told[name] = Markup('<a href="{}">{}</a>').format(_address(path), path)
    return section("Data and method", facts(told))


def _scorer(name: str, source: str) -> Markup:
    return Markup("{}, <code>{}</code>").format(name, source)


def _address(path: str) -> str:
    return path if "://" in path else Path(path).absolute().as_uri()


def _window(evidence: Evidence) -> str:
    ends = [evidence.data.first_time_ms, evidence.data.last_time_ms]
    first, last = (
        "?" if t is None else f"{datetime.fromtimestamp(t / 1000, timezone.utc):%Y-%m-%d %H:%M}" for t in ends
    )
    return "time unknown" if ends == [None, None] else f"{first} to {last} UTC"


def _harm(m: MetricResult) -> tuple[float, float]:
    gain = m.gain
    assert gain is not None and gain.high is not None and gain.value is not None
    return gain.high, gain.value


def _harmful(m: MetricResult) -> bool:
    return m.gain is not None and m.gain.high is not None and m.gain.high < 0


def _slice_name(where: dict[str, str]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in where.items())


def _reaches(gains: Iterable[tuple[str, Estimate | None]]) -> dict[str, float]:
    """Per metric, where its lines end: at the largest end of an interval."""
    found: dict[str, float] = {}
    for metric, gain in gains:
        ends = [abs(v) for v in (gain.low, gain.high) if v is not None] if gain else []
        found[metric] = max([found.get(metric, 0.0), *ends])
    return found


def _strip(gain: Estimate | None, reach: float, tone: Tone, margin: float | None = None) -> Markup | str:
    if gain is None or gain.value is None or gain.low is None or gain.high is None:
        return ""
    reach = max(reach, abs(margin or 0.0)) * 1.05
    return interval_strip(gain.low, gain.value, gain.high, reach, colour=INK[tone], margin=margin or None)


def _tone(gain: Estimate | None) -> Tone:
    if gain is None or gain.low is None or gain.high is None:
        return "plain"
    return "good" if gain.low > 0 else "bad" if gain.high < 0 else "plain"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:+.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:+.2g}"
    return text.replace("-", "−", 1)


def _interval(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{_signed(found.low)} to {_signed(found.high)}"


def _with_interval(found: Estimate | None, signed: bool = False) -> str:
    if found is None:
        return ""
    shown = _signed if signed else _number
    within = "" if found.low is None else f" ({shown(found.low)} to {shown(found.high)})"
    return shown(found.value) + within


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _log_odds(p: float) -> float:
    clipped = min(max(p, 1e-7), 1 - 1e-7)
    return math.log(clipped) - math.log1p(-clipped)
