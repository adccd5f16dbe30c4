"""The page of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from markupsafe import Markup

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
    scatter_chart,
    section,
    table,
    write,
)
from components.pages.charts import MARKS
from components.pages.page import INK
from pipeline.sweep.findings import Interval
from pipeline.sweep.run import PointFinding, Sweep
from pipeline.sweep.words import described, headline, interval, negative_transfer, percent, signed

_Value = Callable[[dict[str, float]], float | None]
"""Reads a number off a window of a training record."""


def write_page(found: Sweep, path: Path) -> Path:
    """Writes the page of a sweep."""
    title, reasons, tone = headline(found)
    lead = (
        f"{found.name}: trained on {_days(found.days['train'])} ({found.rows['train']:,} rows), judged on "
        f"{_days(found.days['eval'])} ({found.rows['eval']:,} rows of {found.users:,} users), {found.seeds} "
        f"{'seed' if found.seeds == 1 else 'seeds'} per point."
    )
    parts: list[Markup | Banner] = [
        Banner(title, reasons, tone),
        _front(found),
        _points(found),
        _gain(found),
        _during(found),
        _tuning(found),
        *([_failures(found)] if found.failures else []),
        _method(found),
    ]
    return write(path, f"Sweep of {found.name}", lead, parts)


def _front(found: Sweep) -> Markup:
    shared = [p for p in found.points if p.kind != "single"]
    models, balancers = _names(shared, "model"), _names(shared, "balancer")
    chosen = found.recommendation and found.points[found.recommendation.point]
    pictures = []
    for x, y in zip(found.objectives, found.objectives[1:]):
        series = [
            Series(
                p.name,
                [p.auc[x]],
                [p.auc[y]],
                [(p.deviation[x] or 0.0, p.deviation[y] or 0.0)],
                colour=models.index(p.model),
                mark=MARKS[balancers.index(p.balancer) % len(MARKS)],
                labels=[p.name if p is chosen or p.on_front else ""],
                hints=[f"{described(p)}: {x} {p.auc[x]:.4f}, {y} {p.auc[y]:.4f}"],
            )
            for p in shared
        ]
        # With more than two tasks the front is no line in the plane of two of them.
        front = [(p.auc[x], p.auc[y]) for p in shared if p.on_front] if len(found.objectives) == 2 else []
        picture = scatter_chart(series, x_label=f"{x} AUC", y_label=f"{y} AUC", front=sorted(front))
        pictures.append(figure(picture, wide=True))
    keys = legend([Series(m, (), (), colour=i, mark="square") for i, m in enumerate(models)], marks=True)
    marks = [Series(b, (), (), colour=6, mark=MARKS[i % len(MARKS)]) for i, b in enumerate(balancers)]
    on_front = ", ".join(described(p) for p in shared if p.on_front)
    return section(
        "Pareto front",
        *pictures,
        keys,
        legend(marks, marks=True),
        paragraph(f"On the front: {on_front}."),
        note="Up and right is better. A point on the front (dashed) is beaten on all tasks by no other. Bars are the "
        "standard deviation over the seeds" + (", which one seed does not have." if found.seeds == 1 else "."),
    )


def _points(found: Sweep) -> Markup:
    reach = _reach([d for p in found.points for d in (p.to_tuned or {}).values()])
    slowest = max((p.step_ms for p in found.points if p.step_ms), default=1.0)
    chosen = found.recommendation and found.points[found.recommendation.point]
    columns: list[str | Markup] = ["model, balancer"]
    numbers = []
    for task in found.objectives:
        numbers.append(len(columns))
        columns += [f"{task} AUC", "to tuned static"]
    columns += ["step", "best"]
    numbers.append(len(columns) - 1)
    rows = []
    for p in _by_model(found.points):
        marks = (" ◆" if p.on_front else "") + (" ←" if p is chosen else "")
        row: list[Cell | str] = [Cell(_name(p) + marks, strong=p is chosen)]
        for task in found.objectives:
            row.append(_auc(p, task))
            row.append(_strip((p.to_tuned or {}).get(task), reach))
        row.append(bar(p.step_ms / slowest, f"{p.step_ms:.1f} ms") if p.step_ms is not None else "")
        row.append("" if p.kind == "single" else percent(p.best))
        rows.append(row)
    return section(
        "All points",
        table(columns, rows, numbers=numbers),
        note="AUC: mean ± standard deviation over the seeds. The difference is to the same model with tuned static "
        f"weights, with its 95 % interval on a line from −{reach:.4f} to +{reach:.4f}; green lies above 0, red below. "
        "◆ is on the front, ← is recommended. 'Step': the median time of a training step. 'Best': "
        "share of the replicates in which the point's mean AUC over the tasks is the highest.",
    )


def _gain(found: Sweep) -> Markup:
    shared = [p for p in found.points if p.to_single]
    if not shared:
        return section("Gain over single-task models", paragraph("No model of a task alone was trained to the end."))
    reach = _reach([d for p in shared for d in (p.to_single or {}).values()])
    rows = []
    for p in _by_model(shared):
        row: list[Cell | str] = [_name(p)]
        for task in found.objectives:
            gain = (p.to_single or {}).get(task)
            tone = _tone(gain) if gain else "plain"
            row.append(Cell(signed(gain.value), tone, strong=tone == "bad") if gain else "")
            row.append(_strip(gain, reach, with_value=False))
        rows.append(row)
    columns: list[str | Markup] = ["model, balancer"]
    for task in found.objectives:
        columns += [f"{task} AUC", "95 % interval"]
    numbers = [1 + 2 * i for i in range(len(found.objectives))]
    hurt = [p for p in shared if negative_transfer(p)]
    said = (
        f"Negative transfer is shown in {len(hurt)} of {len(shared)} points."
        if hurt
        else "Negative transfer is shown in no point."
    )
    alone = ", ".join(
        f"{p.balancer} {p.auc[p.balancer]:.4f}" for p in found.points if p.kind == "single" and p.balancer in p.auc
    )
    return section(
        "Gain over single-task models",
        paragraph(f"{said} AUC of the models of a task alone: {alone}."),
        table(columns, rows, numbers=numbers),
        note="What a point gains over a model that learns the task alone, with a trunk of its own. Red: the whole 95 % "
        f"interval lies below 0, the other tasks hurt this one. Lines go from −{reach:.4f} to +{reach:.4f}.",
    )


def _during(found: Sweep) -> Markup:
    shared = [p for p in found.points if p.kind != "single"]
    models, balancers = _names(shared, "model"), _names(shared, "balancer")
    pairs = [(a, b) for j, b in enumerate(found.tasks) for a in found.tasks[:j]]
    parts = [legend([Series(b, (), (), colour=i, dash=i // 4) for i, b in enumerate(balancers)])]
    for model in models:
        of_model = [p for p in shared if p.model == model]
        figures = []
        for a, b in pairs:
            series = [_curve(p, balancers, _cosine_of(f"cosine_{a}_{b}")) for p in of_model]
            chart = line_chart(series, x_label="step", y_label=f"cosine, {a} and {b}", y_range=(-1, 1), level=0)
            figures.append(figure(chart, f"{model}: do {a} and {b} pull the same way?"))
        for task in found.tasks[1:]:
            series = [_curve(p, balancers, _share_of(task, found.tasks)) for p in of_model]
            chart = line_chart(series, x_label="step", y_label=f"share of {task} in the weights", y_range=(0, 1))
            figures.append(figure(chart, f"{model}: weight of {task}"))
        parts.append(cards(*figures))
    return section(
        "During training",
        *parts,
        note="Means over the seeds, smoothed over 5 looks. Cosine between the gradients of two tasks on the parameters "
        "that they share: below 0 they conflict. Weights: what a balancer makes of the tasks, as a share of their sum.",
    )


def _tuning(found: Sweep) -> Markup:
    if len(found.tasks) == 2:
        series = [
            Series(
                m,
                [math.log2(w[found.tasks[1]]) for w, _ in tried],
                [math.nan if auc is None else auc for _, auc in tried],
                colour=i,
                mark=MARKS[i % len(MARKS)],
            )
            for i, (m, tried) in enumerate(found.trials.items())
        ]
        label = f"log2 of the weight of {found.tasks[1]}; {found.tasks[0]} has 1"
        chart = line_chart(series, x_label=label, y_label="mean AUC, last training day", marks=True)
        shown = [figure(chart), legend(series)]
    else:
        rows = [
            [m, _ratio(w), "failed" if auc is None else f"{auc:.4f}"]
            for m, tried in found.trials.items()
            for w, auc in tried
        ]
        shown = [table(["model", " : ".join(found.tasks), "mean AUC"], rows, numbers=[2])]
    budget = max((len(tried) for tried in found.trials.values()), default=0)
    return section(
        "Tuned static weights",
        *shown,
        note=f"Budget: {budget} trainings per model, with one seed, on the training days but the last, judged on the "
        "last by the mean AUC over the tasks. The best weights of each model were then trained like every other point.",
    )


def _failures(found: Sweep) -> Markup:
    rows = [[name, why] for name, why in found.failures]
    return section("Trainings that failed", table(["training", "why"], rows, wrapped=[1]))


def _method(found: Sweep) -> Markup:
    names = list(dict.fromkeys(task for p in found.points for task in p.log_loss))
    spread = ", ".join(f"{t} {d:.4f}" for t, d in found.seed_deviation.items() if d is not None)
    return section(
        "How this was found",
        facts(
            {
                "training days": f"{_days(found.days['train'])}, {found.rows['train']:,} rows",
                "evaluation days": f"{_days(found.days['eval'])}, {found.rows['eval']:,} rows, {found.users:,} users",
                "trainings": f"{found.trainings}, {len(found.failures)} failed",
                "results": Markup("<code>{}</code>").format(found.folder),
                "standard deviation over seeds": spread or "unknown, with one seed",
            }
        ),
        paragraph(
            f"Tasks are compared by their probabilities over all exposures ({', '.join(found.objectives)}), on the "
            f"same rows for every point. Intervals are of paired differences: a Poisson bootstrap of the users with "
            f"{found.replicates} replicates, the same draws for all points, with AUC to first order (its Hájek "
            "projection), and normal noise for the seeds with the standard deviation that all points together show."
        ),
        paragraph(
            "The recommendation is the point that gains AUC on a task and loses at most "
            f"{found.tolerance:g} on every other, with 95 % confidence over all points and tasks together, against the "
            "best model with tuned static weights (the best on the last training day, which the evaluation days had no "
            "part in). Where there are several, it is that with the largest mean; where there is none, it is the tuned "
            "static weights themselves."
        ),
        folded(
            "Log loss (nats) and calibration (mean prediction over base rate) of every output",
            table(
                ["model, balancer", *(f"{o}: {m}" for o in names for m in ("log loss", "calibration"))],
                [
                    [_name(p), *(_four(m.get(o)) for o in names for m in (p.log_loss, p.calibration))]
                    for p in _by_model(found.points)
                ],
                numbers=range(1, 1 + 2 * len(names)),
            ),
        ),
    )


def _curve(point: PointFinding, balancers: list[str], value: _Value) -> Series:
    """Means over the seeds, smoothed."""
    by_step: dict[int, list[float]] = {}
    for windows in point.windows:
        for window in windows:
            v = value(window)
            if v is not None:
                by_step.setdefault(window["step"], []).append(v)
    steps = sorted(by_step)
    means = np.array([np.mean(by_step[s]) for s in steps])
    if len(means) > 5:
        kernel = np.ones(5)
        means = np.convolve(means, kernel, "same") / np.convolve(np.ones_like(means), kernel, "same")
    place = balancers.index(point.balancer)
    return Series(point.balancer, steps, means.tolist(), colour=place, dash=place // 4)


def _cosine_of(name: str) -> _Value:
    return lambda window: window.get(name)


def _share_of(task: str, tasks: list[str]) -> _Value:
    def share(window: dict[str, float]) -> float | None:
        total = sum(window[f"weight_{t}"] for t in tasks)
        return window[f"weight_{task}"] / total if total > 0 else None

    return share


def _strip(difference: Interval | None, reach: float, *, with_value: bool = True) -> Cell | str:
    if difference is None:
        return ""
    d = difference
    picture = interval_strip(d.low, d.value, d.high, reach, colour=INK[_tone(d)])
    text = Markup("{} {}").format(picture, signed(d.value)) if with_value else picture
    return Cell(text, _tone(d), hint=interval(d))


def _tone(difference: Interval) -> Tone:
    return "good" if difference.low > 0 else "bad" if difference.high < 0 else "plain"


def _reach(differences: list[Interval]) -> float:
    ends = [abs(v) for d in differences for v in (d.low, d.high) if math.isfinite(v)]
    # A few wide intervals must not flatten all others; they end in arrows.
    return float(np.quantile(ends, 0.95)) if ends else 1.0


def _auc(point: PointFinding, task: str) -> str:
    if task not in point.auc:
        return ""
    deviation = point.deviation.get(task)
    return f"{point.auc[task]:.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _ratio(weights: dict[str, float]) -> str:
    return " : ".join(f"{w:g}" for w in weights.values())


def _by_model(points: list[PointFinding]) -> list[PointFinding]:
    """The points of a model together, the models of a task alone last."""
    models = _names(points, "model")
    return sorted(points, key=lambda p: (p.kind == "single", models.index(p.model)))


def _name(point: PointFinding) -> str:
    return point.name if point.weights is None else f"{point.name} {_ratio(point.weights)}"


def _names(points: list[PointFinding], of: str) -> list[str]:
    return list(dict.fromkeys(getattr(p, of) for p in points))


def _days(ends: tuple[str, str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
