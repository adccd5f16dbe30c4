"""What a run ends with on the screen: how good the candidate is, what was decided, what serves, and where it all is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from components.evaluator import TaskMetrics, read_summary
from components.log_example_gen.page import PAGE_FILE
from components.offline_ab import Evidence, read_evidence
from components.offline_ab.document import Estimate
from components.offline_ab.page import PAGE_FILE as EVIDENCE_PAGE
from components.promotion import Verdict, read_verdict
from components.serving_check import ServingVerdict, read_serving_check
from models.features import Feature
from models.tasks import outputs as chain_outputs
from pipeline.config import Config
from pipeline.local_runner import RunResult
from pipeline.pipeline import repository_root
from pipeline.progress import say
from serving.model_repository import ModelRepository, Version

RawValue = list[str] | list[float]
"""Values of a feature in one row: none if missing, several for a list."""


@dataclass(frozen=True)
class ServedPrediction:
    """One row of the evaluation days, scored by the model in service.

    Attributes:
      row: raw values by feature.
      labels: by event, 0 or 1.
      probabilities: by output: pctr, pcvr, pctcvr.
    """

    row: dict[str, RawValue]
    labels: dict[str, int]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """What a run found and did.

    Attributes:
      result: states of the components.
      candidate, baseline: metrics of the candidate, and of the model in service where it was compared.
      evidence: comparison of both on the same rows.
      serving_check: what the candidate showed in TensorFlow's C++ loader.
      verdict: what was decided.
      model_name: name of the model in the repository.
      served: version in service now, None for none.
      prediction: by that version, None without one.
      warm_start: what was carried over from the model in service.
      places: what is where.
    """

    result: RunResult
    candidate: list[TaskMetrics]
    baseline: list[TaskMetrics]
    evidence: Evidence
    serving_check: ServingVerdict
    verdict: Verdict
    model_name: str
    served: Version | None
    prediction: ServedPrediction | None
    warm_start: str
    places: dict[str, Path]


def summarise(config: Config, root: Path, result: RunResult) -> Summary:
    """Reads the artifacts of a finished run and scores one row with the model in service."""
    evaluation = result.output("Evaluator", "evaluation")
    repository = ModelRepository(repository_root(config, root), config.serving.model_name)
    served = repository.stable()
    prediction = None
    if served is not None:
        example = first_example(result.output("LogExampleGen", "examples") / "Split-eval")
        row, labels = raw_row(example, config.features, [t.label for t in config.tasks])
        names = [o.name for o in chain_outputs(config.tasks)]
        prediction = ServedPrediction(row, labels, predict(served.path, row, names))
    training = result.output("Trainer", "model_run")
    return Summary(
        result=result,
        candidate=read_summary(str(evaluation)),
        baseline=read_summary(str(evaluation), model="baseline"),
        evidence=read_evidence(result.output("OfflineABTest", "evidence")),
        serving_check=read_serving_check(str(result.output("ServingCheck", "blessing"))),
        verdict=read_verdict(str(result.output("Promotion", "promotion"))),
        model_name=config.serving.model_name,
        served=served,
        prediction=prediction,
        warm_start=json.loads((training / "training.json").read_text(encoding="utf-8"))["warm_start"],
        places={
            "model repository": repository.path,
            "evaluation": evaluation,
            "evidence": result.output("OfflineABTest", "evidence") / EVIDENCE_PAGE,
            "reconciliation": result.output("LogExampleGen", "report") / PAGE_FILE,
            "training": training,
            "training record": training / "training.json",
            "training plot": training / "training.png",
            "logs": result.logs,
        },
    )


def first_example(split: Path) -> Any:
    """The first tf.Example of a split.

    Raises:
      FileNotFoundError: if it has none.
    """
    import tensorflow as tf

    from models.example_files import example_records

    files = sorted(str(f) for f in split.glob("data_tfrecord-*"))
    for record in example_records(*files).take(1).as_numpy_iterator():
        return tf.train.Example.FromString(record)
    raise FileNotFoundError(f"{split}: no example in {len(files)} files")


def raw_row(
    example: Any, features: tuple[Feature, ...], labels: list[str]
) -> tuple[dict[str, RawValue], dict[str, int]]:
    """Raw values and labels of a tf.Example."""

    def values(name: str) -> RawValue:
        column = example.features.feature[name]
        kind = column.WhichOneof("kind")
        if kind is None:
            return []
        found = getattr(column, kind).value
        return [v.decode(errors="replace") for v in found] if kind == "bytes_list" else [float(v) for v in found]

    return {f.name: values(f.name) for f in features}, {label: int((values(label) or [0])[0]) for label in labels}


def predict(model: Path, row: dict[str, RawValue], names: list[str]) -> dict[str, float]:
    """Scores one row with the `predict` signature of a SavedModel, which takes raw columns and knows '' and NaN.

    The model in service may be of an earlier configuration: a feature that it wants and the row lacks is missing, and
    an output among `names` that it does not have is left out.
    """
    import tensorflow as tf

    signature = tf.saved_model.load(str(model)).signatures["predict"]
    columns = {}
    for name, wanted in signature.structured_input_signature[1].items():
        column: RawValue = row.get(name) or ([""] if wanted.dtype == tf.string else [math.nan])
        columns[name] = tf.constant([column] if wanted.shape.rank == 2 else column[:1], wanted.dtype)
    scores = signature(**columns)
    return {name: float(np.asarray(scores[name])[0]) for name in names if name in scores}


def render(summary: Summary, console: Console) -> None:
    """Prints a summary."""
    components = summary.result.components
    console.print()
    if summary.result.nothing_changed:
        console.print(f"nothing changed: all {len(components)} components were served from the cache", style="cyan")
    else:
        cached = sum(c.state == "cached" for c in components)
        seconds = sum(c.seconds for c in components)
        ran = f"{len(components) - cached} of {len(components)} components ran, the others were served from the cache"
        console.print(
            f"{ran if cached else f'all {len(components)} components ran'} ({seconds:.0f} s)", highlight=False
        )
    console.print()
    console.print(_metrics(summary))
    console.print()
    say(console, "verdict", _decision(summary.verdict))
    for reason in summary.verdict.reasons:
        say(console, "", f"- {reason}")
    for name, line in zip(("serving check", ""), _served_like(summary.serving_check)):
        say(console, name, line)
    if summary.served is None:
        say(console, "in service", "no model yet")
    else:
        say(console, "in service", f"{summary.model_name}, version {summary.served.number}")
        say(console, "", str(summary.served.path))
    say(console, "warm start", summary.warm_start)
    for name, place in summary.places.items():
        say(console, name, str(place))
    if summary.prediction is not None:
        console.print()
        _print_prediction(summary.prediction, console)


def _metrics(summary: Summary) -> Table:
    gains = {r.task: r.difference for r in summary.evidence.metrics if r.metric == "auc" and not r.slice}
    compared = summary.evidence.baseline is not None
    table = Table(
        title="candidate on the evaluation days",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    table.add_column("task", no_wrap=True)
    columns = ["rows", "base rate", "AUC", "log loss", "calibration"]
    if compared:
        columns.append(f"AUC over v{summary.verdict.baseline}'s")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for m in summary.candidate:
        cells = [f"{m.rows:,}", f"{m.base_rate:.4f}", f"{m.auc:.4f}", f"{m.log_loss:.4f}", f"{m.calibration:.3f}"]
        if compared:
            cells.append(_gain(gains.get(m.task)))
        table.add_row(m.task, *cells)
    return table


def _gain(difference: Estimate | None) -> str:
    if difference is None or difference.value is None:
        return ""
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4f}"
    return f"{difference.value:+.4f} ± {(difference.high - difference.low) / 2:.4f}"


def _served_like(check: ServingVerdict) -> tuple[str, ...]:
    """What the check of the exported model found, a line each."""
    if not check.blessed:
        return ("not passed",)
    furthest = max((p.difference for p in check.parity), default=0.0)
    timed = ", ".join(f"{t.candidates:,}: {t.p50_ms:.1f} / {t.p99_ms:.1f}" for t in check.latency)
    lines = (f"scores within {furthest:.1g} of the trainer's, without Python",)
    return (*lines, f"ms by candidates (p50 / p99): {timed}") if timed else lines


def _decision(verdict: Verdict) -> str:
    if verdict.verdict == "promote":
        before = "the first model" if verdict.baseline is None else f"in place of version {verdict.baseline}"
        return f"version {verdict.version} went into service, {before}"
    stays = "no model is in service" if verdict.stable is None else f"version {verdict.stable} stayed in service"
    candidate = "the candidate" if verdict.version is None else f"version {verdict.version}"
    return f"{candidate} did not go into service; {stays}"


_FEATURES_SHOWN = 14


def _print_prediction(prediction: ServedPrediction, console: Console) -> None:
    console.print(
        "a served prediction, by the signature 'predict' on a row of the evaluation days", style="bold", highlight=False
    )
    row = list(prediction.row.items())
    # A row of a few dozen features would push the results off the screen.
    shown = row if len(row) <= _FEATURES_SHOWN else row[: _FEATURES_SHOWN - 1]
    width = max(16, *(len(name) for name, _ in shown))
    for name, values in shown:
        say(console, name, _shown(values, console.width - width - 1), width)
    if len(shown) < len(row):
        say(console, "…", f"and {len(row) - len(shown)} more features", width)
    say(console, "labels", ", ".join(f"{name} {value}" for name, value in prediction.labels.items()), width)
    console.print()
    scores = "   ".join(f"{name} {value:.6f}" for name, value in prediction.probabilities.items())
    console.print(f"[bold green]{scores}[/bold green]", highlight=False)


def _shown(values: RawValue, width: int) -> str:
    if not values:
        return "(missing)"
    words = [v if isinstance(v, str) else f"{v:g}" for v in values]
    kept = len(words)
    while kept > 1 and len(_list(words, kept)) > width:
        kept -= 1
    return _list(words, kept)


def _list(words: list[str], kept: int) -> str:
    return " ".join(words[:kept]) + (f" … ({len(words)} values)" if kept < len(words) else "")
