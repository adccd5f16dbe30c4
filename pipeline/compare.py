"""The command `compare`: two rankers on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import apache_beam as beam
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from components.offline_ab import Evidence, EvidenceConfig, Rule
from components.offline_ab import executor as offline_ab
from components.offline_ab.document import Estimate, Scorer
from components.offline_ab.page import PAGE_FILE
from components.offline_ab.scoring import LoggedScores, ScoredBy, outputs_of
from models.section import UserError
from models.tasks import DEFAULT_TASKS, TaskConfig, outputs
from pipeline.config import BeamConfig, Config
from pipeline.local_runner import run_pipeline, user_error_in
from pipeline.pipeline import create_pipeline, resolve_inputs
from pipeline.progress import say
from pipeline.run_folder import RunFolder
from serving.signatures import DESCRIPTION

LOGGED = "logged:"


def join_logs(settings: Config, folder: RunFolder) -> Path:
    """Folder of the examples of the evaluation days, from the cache of a pipeline's folder or joined anew."""
    inputs = resolve_inputs(settings, folder.root, schema_text="")
    result = run_pipeline(create_pipeline(settings, folder.root, inputs), folder, only=("LogExampleGen",))
    return result.output("LogExampleGen", "examples") / "Split-eval"


def compare(
    baseline: str, candidate: str, examples: Path, out: Path, settings: Config | None, *, slices: tuple[str, ...] = ()
) -> Evidence:
    """Compares two scorers on a folder of examples.

    Args:
      baseline, candidate: folder of a SavedModel, or logged scores as 'logged:pctr=COLUMN,…'.
      examples: folder of TFRecord files, or of an Examples artifact with a split 'eval'.
      out: folder to write to.
      settings: tasks, slices and rules; without it the chain is the candidate's own, or the default one.
      slices: columns to cut by, beside those of the configuration.

    Raises:
      UserError: naming what is not as expected.
    """
    scorers = [_scorer(text) for text in (baseline, candidate)]
    tasks = settings.tasks if settings else _chain(scorers)
    config = settings.evidence if settings else EvidenceConfig()
    rules = config.rules or (_default_rule(tasks, scorers),)
    by = [*(settings.evaluation.slices if settings else ()), *((column,) for column in slices)]
    folder = examples / "Split-eval" if (examples / "Split-eval").is_dir() else examples
    options = (settings.beam if settings else BeamConfig()).options
    try:
        return offline_ab.compare(
            offline_ab.example_files([str(folder)]),
            tasks,
            list(dict.fromkeys(by)),
            config,
            baseline=scorers[0],
            candidate=scorers[1],
            folder=str(out),
            pipeline=beam.Pipeline(argv=list(options)),
            rules=rules,
        )
    except Exception as error:
        message = user_error_in(error)  # Beam wraps those of its workers
        if message is None:
            raise
        raise UserError(message) from error


def render(evidence: Evidence, out: Path, console: Console) -> None:
    """Prints the verdict and the metrics over all rows."""
    verdict = {
        "promote": "B should serve",
        "keep": "A should stay",
        "not_enough_data": "not enough data to decide",
    }[evidence.verdict]
    console.print()
    console.print(_table(evidence))
    console.print()
    say(console, "verdict", verdict)
    for reason in evidence.reasons:
        say(console, "", f"- {reason}")
    say(
        console,
        "rows",
        f"{evidence.data.rows:,} of {evidence.data.users:,} users in {evidence.data.requests:,} requests",
    )
    for value in evidence.off_policy:
        found = value.refused or f"{_cell(value.candidate)}, B over A {_cell(value.difference)}"
        say(console, f"value, {value.estimator}", found)
    if evidence.sample_ratio:
        arms = evidence.sample_ratio
        state = "as planned" if arms.passed else "NOT as planned"
        say(console, "arms", f"{state} (p = {arms.p_value:.2g})")
    say(console, "evidence", str(out))
    say(console, "page", str(out / PAGE_FILE))


def _table(evidence: Evidence) -> Table:
    table = Table(title="A and B on all rows", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("A", "B", f"B - A, {evidence.settings.confidence * 100:g} %", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for m in evidence.metrics:
        if not m.slice:
            p = "" if m.p_value is None else f"{m.p_value:.3f}"
            table.add_row(m.task, m.metric, _value(m.baseline), _value(m.candidate), _cell(m.difference, sign="+"), p)
    return table


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None or estimate.value is None else f"{estimate.value:.4f}"


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or estimate.value is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{sign}.4f}"
    return f"{estimate.value:{sign}.4f} ± {(estimate.high - estimate.low) / 2:.4f}"


def _scorer(text: str) -> tuple[Scorer, ScoredBy]:
    if not text.startswith(LOGGED):
        outputs_of(text)  # an error at once, not after the logs were joined
        path = Path(text)
        return Scorer(name=path.name, source=text, version=int(path.name) if path.name.isdigit() else None), text
    columns = {}
    for part in text.removeprefix(LOGGED).split(","):
        name, _, column = part.partition("=")
        if not (name and column):
            raise UserError(f"'{text}': expected logged:OUTPUT=COLUMN,… such as logged:pctr=logged_pctr")
        columns[name] = column
    return Scorer(name="logged scores", source=text), LoggedScores(columns)


def _given(by: ScoredBy) -> tuple[str, ...]:
    return outputs_of(by) if isinstance(by, str) else tuple(by.columns)


def _chain(scorers: list[tuple[Scorer, ScoredBy]]) -> tuple[TaskConfig, ...]:
    for _, by in reversed(scorers):
        if isinstance(by, str) and (description := Path(by) / DESCRIPTION).exists():
            tasks = json.loads(description.read_text(encoding="utf-8"))["tasks"]
            return TypeAdapter(tuple[TaskConfig, ...]).validate_json(json.dumps(tasks))
    return DEFAULT_TASKS


def _default_rule(tasks: tuple[TaskConfig, ...], scorers: list[tuple[Scorer, ScoredBy]]) -> Rule:
    """The last probability that both sides give must be ranked better."""
    given = [o.task for o in outputs(tasks) if all(o.name in _given(by) for _, by in scorers)]
    if not given:
        names = ", ".join(o.name for o in outputs(tasks))
        raise UserError(f"expected scores that both sides give, of {names}; found {_given(scorers[0][1])} in A")
    return Rule(task=given[-1], metric="auc", better_by=0.0)
