"""What a sweep trains: the points of the grid, tuned static weights, and a model of each task alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import qmc

from models.balancing import AnyBalancer, Static
from models.presets import ModelConfig
from models.tasks import Output, TaskConfig, outputs
from pipeline.config import Config
from pipeline.sweep.training import SweepTraining

Kind = Literal["grid", "tuned", "single"]
TUNED = "tuned static"
SINGLE = "single-task"


@dataclass(frozen=True)
class Point:
    """A way to train, with all its seeds.

    Attributes:
      kind: of the grid, with tuned static weights, or of a task alone.
      model: name of the model in the grid; 'single-task' for a model of a task alone.
      balancer: name of the balancer in the grid, or 'tuned static'; the task for a model of a task alone.
      trainings: one per seed.
    """

    kind: Kind
    model: str
    balancer: str
    trainings: tuple[SweepTraining, ...]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.balancer}"


@dataclass(frozen=True)
class Trial:
    """A training that tries static weights, judged on the last training day."""

    model: str
    weights: dict[str, float]
    training: SweepTraining


def objectives(tasks: tuple[TaskConfig, ...]) -> tuple[Output, ...]:
    """What points are compared by: per task its probability over all exposures, such as pctr and pctcvr.

    These are judged on the same rows whatever the model, and are what rankings are made of.
    """
    return tuple(o for o in outputs(tasks) if o.given is None)


def grid_points(config: Config) -> list[Point]:
    """Every model with every balancer."""
    return [
        Point("grid", m, b, tuple(_training(config, model, balancer, s) for s in _seeds(config)))
        for m, model in config.sweep.models.items()
        for b, balancer in config.sweep.balancers.items()
    ]


def single_points(config: Config) -> list[Point]:
    """A chain of one task for each objective: nothing is shared, so nothing can interfere."""
    points = []
    for output in objectives(config.tasks):
        alone = (TaskConfig(name=output.task, label=output.label),)
        trainings = (
            _training(config, config.sweep.single_task, Static(name="static"), seed, tasks=alone)
            for seed in _seeds(config)
        )
        points.append(Point("single", SINGLE, output.task, tuple(trainings)))
    return points


def trials(config: Config) -> list[Trial]:
    """The trainings that tune the static weights of each model."""
    return [
        Trial(m, weights, _training(config, model, _static(weights), 1, judged_on="last_training_day"))
        for m, model in config.sweep.models.items()
        for weights in trial_weights(config)
    ]


def trial_weights(config: Config) -> list[dict[str, float]]:
    """The static weights that are tried, by name of the task; the first task's is 1."""
    tuning, names = config.sweep.tuning, [t.name for t in config.tasks]
    low, high = np.log([tuning.lowest, tuning.highest])
    if len(names) == 2:
        shares = np.linspace(0, 1, tuning.trials)[:, None] if tuning.trials > 1 else np.array([[0.5]])
    else:
        shares = qmc.Halton(len(names) - 1, scramble=False).random(tuning.trials + 1)[1:]
    found = np.exp(low + shares * (high - low))
    return [{names[0]: 1.0, **{n: float(f"{w:.4g}") for n, w in zip(names[1:], row)}} for row in found]


def tuned_point(config: Config, model: str, weights: dict[str, float]) -> Point:
    """A model with the static weights that were best on the last training day."""
    section = config.sweep.models[model]
    return Point("tuned", model, TUNED, tuple(_training(config, section, _static(weights), s) for s in _seeds(config)))


def _static(weights: dict[str, float]) -> Static:
    # Left out where it is 1, so that equal weights are the same training as 'static' without weights.
    return Static(name="static", weights={n: w for n, w in weights.items() if w != 1} or None)


def _seeds(config: Config) -> range:
    return range(1, config.sweep.seeds + 1)


def _training(
    config: Config,
    model: ModelConfig,
    balancer: AnyBalancer,
    seed: int,
    *,
    tasks: tuple[TaskConfig, ...] | None = None,
    judged_on: Literal["evaluation", "last_training_day"] = "evaluation",
) -> SweepTraining:
    # What decides nothing in a sweep has one value, so that a change of it repeats no training.
    fixed = {"seed": seed, "warm_start": False, "cache": False, "checkpoint_every": 0, "strategy": "none"}
    fixed |= {"probe_every": 0, "shuffle_rows": 1}
    return SweepTraining(
        features=config.features,
        tasks=tasks or config.tasks,
        model=model,
        balancer=balancer,
        optimizer=config.optimizer,
        training=config.training.model_copy(update=fixed),
        judged_on=judged_on,
    )
