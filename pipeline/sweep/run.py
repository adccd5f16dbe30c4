"""Runs a sweep: rows, trainings, findings, page."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.section import UserError
from models.tasks import Output
from pipeline.config import Config
from pipeline.fingerprint import code_fingerprint
from pipeline.local_runner import run_pipeline
from pipeline.pipeline import RunInputs, create_pipeline
from pipeline.progress import Reporter
from pipeline.run_folder import RunFolder
from pipeline.sweep.crew import Crew, Progress, is_done, read_result
from pipeline.sweep.findings import Interval, Recommendation, pareto, recommend, resample
from pipeline.sweep.plan import Point, Trial, grid_points, objectives, single_points, trials, tuned_point
from pipeline.sweep.rows import Rows
from pipeline.sweep.training import SweepTraining
from pipeline.sweep.transform import make_rows
from pipeline.sweep.worker import SCORES

DOCUMENT_FILE = "sweep.json"
PAGE_FILE = "sweep.html"


@dataclass(frozen=True)
class PointFinding:
    """What the trainings of a point came to.

    Attributes:
      kind, model, balancer: see `Point`.
      weights: tuned static weights by task; None for other points.
      seeds: number of trainings that did not fail.
      auc, deviation: mean and standard deviation over the seeds, by objective.
      log_loss, calibration: means over the seeds, by output.
      to_tuned: AUC minus that of the same model with tuned static weights, by objective; None where that is missing.
      to_single: AUC minus that of the model of the task alone, by objective.
      on_front: whether no other point is at least as good on all objectives and better on one.
      best: share of replicates in which its mean AUC over the objectives is the highest.
      step_ms: median time of a training step, of the seeds' median.
      windows: of each training, as training.json has them.
    """

    kind: str
    model: str
    balancer: str
    weights: dict[str, float] | None
    seeds: int
    auc: dict[str, float]
    deviation: dict[str, float | None]
    log_loss: dict[str, float | None]
    calibration: dict[str, float | None]
    to_tuned: dict[str, Interval] | None
    to_single: dict[str, Interval] | None
    on_front: bool
    best: float
    step_ms: float | None
    windows: list[list[dict[str, Any]]]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.balancer}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found; `sweep.json` holds it.

    Attributes:
      name: of the pipeline.
      tasks: names of the chain's tasks.
      objectives: by what points are compared.
      rows, days: of the splits 'train' and 'eval'; days are the first and the last.
      users: in the evaluation rows.
      seeds, replicates, tolerance: as configured.
      seed_deviation: of the AUC over seeds, from all points together, by objective; None with one seed.
      points: grid points, tuned static weights, models of a task alone.
      trials: static weights that were tried, per model, with the mean AUC over the objectives on the last training day.
      recommendation: numbers are places in `points`; None where no training of a model with tuned weights succeeded.
      failures: name of a training and why it failed.
      trainings: how many there are in all.
      folder: of the results.
    """

    name: str
    tasks: list[str]
    objectives: list[str]
    rows: dict[str, int]
    days: dict[str, tuple[str, str]]
    users: int
    seeds: int
    replicates: int
    tolerance: float
    seed_deviation: dict[str, float | None]
    points: list[PointFinding]
    trials: dict[str, list[tuple[dict[str, float], float | None]]]
    recommendation: Recommendation | None
    failures: list[tuple[str, str]]
    trainings: int
    folder: str

    def write(self, path: Path) -> None:
        def plain(value: Any) -> Any:
            return value.tolist() if isinstance(value, np.ndarray) else str(value)

        aside = path.with_name(f".{path.name}.part")
        aside.write_text(json.dumps(dataclasses.asdict(self), default=plain), encoding="utf-8")
        os.replace(aside, path)


def prepare(
    config: Config, inputs: RunInputs, root: str | Path | RunFolder, out: Path, reporter: Reporter | None = None
) -> Path:
    """Joins, validates and transforms the logs by the pipeline's own components, and keeps the rows as arrays.

    Args:
      config: the configuration.
      inputs: the days and the schema.
      root: of the pipeline; what it has in its cache is not done again.
      out: folder of the sweep.
      reporter: is told of the components.

    Returns:
      The folder of the rows.
    """
    folder = root.root if isinstance(root, RunFolder) else Path(root).expanduser().resolve()
    done = run_pipeline(create_pipeline(config, folder, inputs), root, reporter, only=("Transform",))
    examples, graph = done.output("LogExampleGen", "examples"), done.output("Transform", "transform_graph")
    decided_by = [str(examples), str(graph), inputs.inputs_fingerprint, str(config.sweep.rows), config.logs.timezone]
    decided_by += [code_fingerprint("pipeline.sweep.transform"), *(f.canonical_json() for f in config.features)]
    make_rows(
        out / "rows",
        examples,
        graph,
        config.features,
        tuple(t.label for t in config.tasks),
        config.logs.timezone,
        hashlib.sha256("\n".join(decided_by).encode()).hexdigest(),
        config.sweep.rows,
    )
    return out / "rows"


def carry_out(config: Config, rows_folder: Path, out: Path, *, workers: int, tell: Callable[[Progress], None]) -> Sweep:
    """Carries out the trainings that are not there yet, and looks at all of them.

    Raises:
      UserError: when the rows do not suffice, or no training succeeded.
    """
    rows = Rows.read(rows_folder)
    _refuse_too_little(config, rows)
    results = _Results(out / "trainings", (rows.fingerprint, code_fingerprint("pipeline.sweep.training")))
    points, tried = [*grid_points(config), *single_points(config)], trials(config)
    later = sum(len(p.trainings) for p in points) + len(config.sweep.models) * config.sweep.seeds
    with Crew(rows_folder, results.folder, workers=workers, tell=tell) as crew:
        first = {results.key(t.training): (t.training, _trial_name(t)) for t in tried}
        crew.work(first, later)
        tuning = _Tuning.of(tried, results, objectives(config.tasks))
        points = [*(tuned_point(config, m, weights) for m, weights in tuning.chosen.items()), *points]
        # Equal weights, where they were best, are those of the grid: one training, not two.
        second = {results.key(t): (t, f"{p.name}, seed {t.training.seed}") for p in points for t in p.trainings}
        crew.work(second)
    done = [(p, found) for p in points if (found := [t for t in p.trainings if results.has(t)])]
    if not done:
        raise UserError(f"sweep: all trainings failed, the first with: {crew.failures[0][1]}")
    return _findings(config, rows, results, done, tuning, crew.failures, len(first) + len(second))


@dataclass(frozen=True)
class _Results:
    """The results of trainings in their folder; `same` is what they share: the rows and the code."""

    folder: Path
    same: tuple[str, str]

    def key(self, training: SweepTraining) -> str:
        return training.key(*self.same)

    def has(self, training: SweepTraining) -> bool:
        return is_done(self.folder, self.key(training))

    def read(self, training: SweepTraining) -> dict[str, Any]:
        return read_result(self.folder, self.key(training))

    def scores(self, training: SweepTraining) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / SCORES.format(key=self.key(training))))


@dataclass(frozen=True)
class _Tuning:
    """What was tried per model, with the mean AUC; the best weights per model."""

    tried: dict[str, list[tuple[dict[str, float], float | None]]]
    chosen: dict[str, dict[str, float]]

    @classmethod
    def of(cls, tried: list[Trial], results: _Results, goals: tuple[Output, ...]) -> _Tuning:
        listed: dict[str, list[tuple[dict[str, float], float | None]]] = {}
        best: dict[str, tuple[float, dict[str, float]]] = {}
        for trial in tried:
            value = None
            if results.has(trial.training):
                aucs = [results.read(trial.training)["metrics"][g.task]["auc"] for g in goals]
                value = None if None in aucs else float(np.mean(aucs))
            listed.setdefault(trial.model, []).append((trial.weights, value))
            if value is not None and (trial.model not in best or value > best[trial.model][0]):
                best[trial.model] = (value, trial.weights)
        return cls(listed, {model: weights for model, (_, weights) in best.items()})


def _findings(
    config: Config,
    rows: Rows,
    kept: _Results,
    done: list[tuple[Point, list[SweepTraining]]],
    tuning: _Tuning,
    failures: list[tuple[str, str]],
    total: int,
) -> Sweep:
    points = [p for p, _ in done]
    goals = objectives(config.tasks)
    results = [[kept.read(t) for t in trainings] for _, trainings in done]
    scores = [[kept.scores(t) for t in trainings] for _, trainings in done]
    found = resample(goals, rows.evaluation, scores, config.sweep.replicates)
    tuned = {p.model: i for i, p in enumerate(points) if p.kind == "tuned"}
    single = {p.balancer: i for i, p in enumerate(points) if p.kind == "single"}
    shared = [i for i, p in enumerate(points) if p.kind != "single"]
    front = np.zeros(len(points), bool)
    front[shared] = pareto(found.mean[shared])
    recommendation = None
    if tuned:
        recommendation = recommend(found, list(tuned.values()), shared, config.sweep.tolerance)

    def differences(i: int, others: dict[str, int]) -> dict[str, Interval] | None:
        if points[i].kind == "single" or not others:
            return None
        return {g.task: found.difference(i, others[g.task], o) for o, g in enumerate(goals) if g.task in others}

    listed = []
    for i, (point, of_seeds) in enumerate(zip(points, results)):
        judged = [o for o, g in enumerate(goals) if np.isfinite(found.mean[i, o])]
        same_model = {g.task: tuned[point.model] for g in goals} if point.model in tuned else {}
        steps = [r["step_ms"] for r in of_seeds if r["step_ms"] is not None]
        listed.append(
            PointFinding(
                kind=point.kind,
                model=point.model,
                balancer=point.balancer,
                weights=tuning.chosen[point.model] if point.kind == "tuned" else None,
                seeds=len(of_seeds),
                auc={goals[o].task: float(found.mean[i, o]) for o in judged},
                deviation={goals[o].task: _known(found.deviation[i, o]) for o in judged},
                log_loss=_means(of_seeds, "log_loss"),
                calibration=_means(of_seeds, "calibration"),
                to_tuned=differences(i, same_model) if point.kind == "grid" else None,
                to_single=differences(i, single),
                on_front=bool(front[i]),
                best=float(recommendation.best[i]) if recommendation else 0.0,
                step_ms=float(np.median(steps)) if steps else None,
                windows=[r["record"]["windows"] for r in of_seeds],
            )
        )
    days = {split: (str(first), str(last)) for split, (first, last) in rows.days().items()}
    return Sweep(
        name=config.name,
        tasks=[t.name for t in config.tasks],
        objectives=[g.task for g in goals],
        rows={"train": len(rows.train["@user"]), "eval": len(rows.evaluation["@user"])},
        days=days,
        users=len(np.unique(rows.evaluation["@user"])),
        seeds=config.sweep.seeds,
        replicates=config.sweep.replicates,
        tolerance=config.sweep.tolerance,
        seed_deviation={g.task: _known(found.of_seeds[o]) for o, g in enumerate(goals)},
        points=listed,
        trials=tuning.tried,
        recommendation=recommendation,
        failures=failures,
        trainings=total,
        folder=str(kept.folder),
    )


def _refuse_too_little(config: Config, rows: Rows) -> None:
    if rows.last_training_day().all():
        raise UserError(
            "window.train_days: static weights are tuned on the last training day, so expected at least 2 days with "
            "rows, got 1"
        )
    for output in objectives(config.tasks):
        for split, columns in (("training", rows.train), ("evaluation", rows.evaluation)):
            classes = np.unique(columns[output.label])
            if len(classes) < 2:
                raise UserError(
                    f"label '{output.label}': expected both 0 and 1 in the {split} days, found only {classes} in "
                    f"{len(columns[output.label])} rows; take more days, or more of sweep.rows"
                )


def _means(results: list[dict[str, Any]], metric: str) -> dict[str, float | None]:
    found = {}
    for task in results[0]["metrics"]:
        values = [r["metrics"][task][metric] for r in results]
        found[task] = None if None in values else float(np.mean(values))
    return found


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _trial_name(trial: Trial) -> str:
    return f"{trial.model}, static {' : '.join(f'{w:g}' for w in trial.weights.values())}, last training day"
