"""The page of the comparison of serving with training, and what it prints."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from rich.console import Console

from components.pages import (
    Banner,
    Cell,
    Series,
    bar,
    cards,
    facts,
    figure,
    folded,
    paragraph,
    scatter_chart,
    section,
    table,
    write,
)
from pipeline.progress import days_text, say
from pipeline.skew.compare import FeatureSkew, ScoreSkew
from pipeline.skew.run import Skew

PAGE_FILE = "skew.html"


def write_page(skew: Skew, folder: Path) -> Path:
    """Writes `skew.html` into a folder, and returns the file."""
    found = skew.found
    lead = (
        f"{days_text(skew.first_day, skew.last_day)}: {skew.compared:,} rows that were served, beside the same rows as "
        "training reads them."
    )
    if found:
        banner = Banner("Serving and training differ", found[:10] + ["and more, below"] * (len(found) > 10), "bad")
    else:
        banner = Banner("Serving and training see the same", [f"{len(skew.features)} features and all scores"], "good")
    parts: list[Markup | Banner] = [banner, _scores(skew), _features(skew), _rows(skew)]
    return write(Path(folder) / PAGE_FILE, f"{skew.model}: serving beside training", lead, parts)


def render(skew: Skew, page: Path, console: Console) -> bool:
    """Prints what was found, and tells whether there is skew."""
    found = skew.found
    versions = ", ".join(f"version {n} ({rows:,})" for n, rows in skew.versions.items())
    say(console, "served", f"{skew.model}, {days_text(skew.first_day, skew.last_day)}: {versions}")
    say(
        console,
        "rows",
        f"{skew.compared:,} compared, {skew.unmatched:,} not among the exposures, {skew.gone:,} left out",
    )
    say(console, "state", "serving and training differ" if found else "no skew")
    for sentence in found:
        say(console, "", f"- {sentence}")
    say(console, "page", str(page))
    return bool(found)


def _scores(skew: Skew) -> Markup:
    def row(what: str, s: ScoreSkew) -> list[Cell | str | Markup]:
        wrong = s.share > skew.rows
        state = Cell("differs" if wrong else "same", "bad" if wrong else "plain", strong=wrong)
        return [state, s.output, what, f"{s.rows:,}", f"{s.share:.2%}", f"{s.mean:.2e}", f"{s.largest:.2e}"]

    rows = [row("the features that were served", s) for s in skew.replayed]
    rows += [row("training's features", s) for s in skew.training]
    columns = ["state", "score", "given by the model for", "rows that differ", "share", "mean", "largest"]
    charts = []
    for name, (trained, served) in skew.points.items():
        top = max([*trained, *served], default=1.0)
        series = [Series("rows", trained, served, colour=0)]
        chart = scatter_chart(series, x_label="of training's features", y_label="served", front=[(0, 0), (top, top)])
        charts.append(figure(chart, name))
    return section(
        "Scores",
        table(columns, rows, numbers=[3, 4, 5, 6]),
        cards(*charts),
        note="Where the served features give another score, serving has another model or transform than it says. Where "
        "only training's features do, the features differ. In the charts, the rows whose scores differ "
        "most; on the dashed line they are the same.",
    )


def _features(skew: Skew) -> Markup:
    def row(f: FeatureSkew) -> list[Cell | str | Markup]:
        wrong = f.share > skew.rows
        return [
            Cell("differs" if wrong else "same", "bad" if wrong else "plain", strong=wrong),
            f.name,
            bar(f.share, f"{f.share:.2%}"),
            f"{f.rows:,}",
            f"{f.only_served:,}",
            f"{f.only_training:,}",
            "" if f.mean is None else f"{f.mean:.4g}",
            "" if f.largest is None else f"{f.largest:.4g}",
            "" if f.score_change is None else f"{f.score_change:.2e}",
        ]

    columns = [
        *("state", "feature", "share of the rows", "rows", "missing in training", "missing in serving"),
        *("mean difference", "largest", "scores change by"),
    ]
    examples = [
        [f.name, *e] for f in skew.features for e in f.examples
    ]  # fmt: skip
    parts = [table(columns, [row(f) for f in skew.features], numbers=range(3, 9))]
    if examples:
        shown = table(["feature", "request", "item", "served", "training"], examples, wrapped=[3, 4])
        parts.append(folded("Some of the rows", shown))
    if skew.as_served:
        parts.append(paragraph(f"Not compared (skew.as_served): {', '.join(skew.as_served)}.", note=True))
    return section(
        "Features",
        *parts,
        note="Values as the join reads them from either log. The last column is the mean change of the scores in the "
        "rows in which the feature differs; other features may differ in them too.",
    )


def _rows(skew: Skew) -> Markup:
    return section(
        "Rows",
        facts(
            {
                "served": f"{skew.served:,}, and {skew.rejected:,} that cannot be read",
                "compared": f"{skew.compared:,}: "
                + ", ".join(f"{rows:,} of version {n}" for n, rows in skew.versions.items()),
                "not among the exposures": f"{skew.unmatched:,}: candidates that were not shown, or not logged",
                "left out": f"{skew.gone:,}: their version is no longer in the repository, or no score was logged",
            }
        ),
    )
