"""Scores new days with the model in service, and holds the figures against those of its promotion."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import apache_beam as beam
from tfx.components.statistics_gen.stats_artifact_utils import BINARY_PB_BASENAME

from components.baseline.layout import EVALUATION_STATISTICS
from components.log_example_gen.config import Window, WindowConfig
from components.log_example_gen.window import resolve_window
from components.offline_ab import Evidence, read_evidence
from components.offline_ab.document import DOCUMENT_FILE, Scorer
from components.offline_ab.executor import example_files, score_examples
from components.offline_ab.gather import gather_evidence
from models.section import UserError
from pipeline.config import Config
from pipeline.local_runner import run_pipeline
from pipeline.monitor.checks import Check, alerts, calibration_checks, drift_checks, metric_checks, missing_slices
from pipeline.monitor.drift import distances, read_statistics
from pipeline.pipeline import create_pipeline, repository_root, resolve_inputs
from pipeline.progress import Reporter
from pipeline.run_folder import RunFolder
from serving.model_repository import ASSETS, ModelRepository, Version

MONITOR_FILE = "monitor.json"
PAGE_FILE = "monitor.html"


@dataclass(frozen=True)
class Watch:
    """What was found.

    Attributes:
      name: of the model.
      version: in service, and what it was judged on.
      first_day, last_day: looked at.
      judged: first and last day of the evaluation before the promotion.
      then, now: metrics and curves of the two.
      checks: metrics of all rows first, then of slices, then calibration, then features.
      new_slices: slices that the evaluation before the promotion did not have.
    """

    name: str
    version: int
    first_day: date
    last_day: date
    judged: tuple[date, date]
    then: Evidence
    now: Evidence
    checks: list[Check]
    new_slices: int

    def write(self, folder: Path) -> Path:
        """Writes monitor.json: the state, the days and every check."""
        path = folder / MONITOR_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        checks = [
            {
                **{f.name: getattr(c, f.name) for f in dataclasses.fields(c)},
                **{k: e and e.model_dump() for k, e in (("then", c.then), ("now", c.now), ("change", c.change))},
            }
            for c in self.checks
        ]
        document = {
            "model": self.name,
            "version": self.version,
            "days": [str(self.first_day), str(self.last_day)],
            "judged": [str(d) for d in self.judged],
            "rows": self.now.data.rows,
            "state": "alert" if alerts(self.checks) else "fine",
            "alerts": [c.name for c in alerts(self.checks)],
            "checks": checks,
        }
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return path


def stable_version(config: Config, root: Path) -> Version:
    """The version in service, with what its promotion kept.

    Raises:
      UserError: if there is none, or it was published without its evidence.
    """
    repository = ModelRepository(repository_root(config, root), config.serving.model_name)
    version = repository.stable()
    if version is None:
        raise UserError(f"{repository.path}: no model is in service, so there is nothing to watch; run the pipeline")
    for name in (DOCUMENT_FILE, EVALUATION_STATISTICS):
        if not (version.path / ASSETS / name).exists():
            raise UserError(
                f"version {version.number} has no {name} under {version.path / ASSETS}: it was published without what "
                f"it was judged by; watching begins with the next version that is promoted"
            )
    return version


def watched_days(config: Config, version: Version) -> WindowConfig:
    """The days to look at, as a window of which they are the evaluation days.

    Raises:
      UserError: if no day after those of the version's evaluation has final labels.
    """
    judged_to = _judged(version)[1]
    last = resolve_window(
        config.logs,
        config.attribution,
        WindowConfig(last_day=config.window.last_day, train_days=1, eval_days=1),
    ).last_day
    days = min(config.monitor.days, (last - judged_to).days)
    if days < 1:
        raise UserError(
            f"no day to look at: version {version.number} was judged on days up to {judged_to}, and the last day with "
            f"final labels is {last}"
        )
    return WindowConfig(last_day=last, train_days=1, eval_days=days)


def watch(config: Config, folder: RunFolder, out: Path, reporter: Reporter | None = None) -> Watch:
    """Joins the days, scores them with the model in service and makes the checks.

    Args:
      config: the configuration.
      folder: of the pipeline; days that were joined already are taken from its cache.
      out: gets the scores.
      reporter: is told of the components.
    """
    version = stable_version(config, folder.root)
    there = config.model_copy(update={"window": watched_days(config, version)})
    inputs = resolve_inputs(there, folder.root)
    done = run_pipeline(create_pipeline(there, folder.root, inputs), folder, reporter, only=("StatisticsGen",))
    examples = done.output("LogExampleGen", "examples") / "Split-eval"
    scorer = Scorer(name=f"version {version.number}", source=str(version.path), version=version.number)
    rows = score_examples(
        example_files([str(examples)]),
        config.tasks,
        config.evaluation.slices,
        config.evidence,
        {"candidate": str(version.path)},
        str(out),
        beam.Pipeline(argv=list(config.beam.options)),
    )
    now = gather_evidence(
        rows,
        config.tasks,
        config.evaluation.slices,
        config.evidence,
        baseline=None,
        candidate=scorer,
        source=str(examples),
        not_compared="the model in service is watched, not compared",
        links={"examples": str(examples), "scores of every row": str(out)},
    )
    then = read_evidence(version.path / ASSETS)
    features = distances(
        read_statistics(version.path / ASSETS / EVALUATION_STATISTICS),
        read_statistics(done.output("StatisticsGen", "statistics") / "Split-eval" / BINARY_PB_BASENAME),
        inputs.schema_text,
        [f.name for f in config.features],
    )
    limits = config.validation.drift if config.monitor.drift is None else config.monitor.drift
    return Watch(
        name=config.serving.model_name,
        version=version.number,
        first_day=inputs.window.first_eval_day,
        last_day=inputs.window.last_day,
        judged=_judged(version),
        then=then,
        now=now,
        checks=[
            *metric_checks(then, now, config.monitor),
            *calibration_checks(then, now, config.monitor),
            *drift_checks(features, limits),
        ],
        new_slices=missing_slices(then, now),
    )


def _judged(version: Version) -> tuple[date, date]:
    window = Window.from_json(json.dumps(version.details["metadata"]["window"]))
    return window.first_eval_day, max(window.first_eval_day, window.last_day)
