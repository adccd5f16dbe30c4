"""One training of a sweep: what decides on it, and what it finds."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tf_keras as keras

from components.trainer.checkpoints import Checkpoints
from components.trainer.config import TrainerSpec
from components.trainer.loop import train
from components.trainer.record import TrainingRecord
from models.ranker import Ranker
from models.tasks import outputs
from pipeline.sweep.judging import judge
from pipeline.sweep.rows import Batches, Rows

_WINDOWS = 30
_SHORTEST_WINDOW = 10


class SweepTraining(TrainerSpec):
    """A training: everything that decides on its result but the rows and the code.

    Attributes:
      judged_on: 'evaluation' trains on all training days and scores the evaluation days; 'last_training_day' trains
        on the days before that one and scores it.
    """

    judged_on: Literal["evaluation", "last_training_day"] = "evaluation"

    def key(self, *more: str) -> str:
        """Name of the result: the same for the same training on the same rows (`more`), and for no other."""
        return hashlib.sha256("\n".join([self.canonical_json(), *more]).encode()).hexdigest()[:20]


class _TimedRecord(TrainingRecord):
    """A record that also notes when each step ended."""

    def __init__(self, folder: Path, ranker: Ranker, *, log_every: int):
        super().__init__(folder, ranker, log_every=log_every)
        self.ends: list[float] = []

    def after_step(self) -> None:
        self.ends.append(time.monotonic())
        super().after_step()


def train_and_judge(training: SweepTraining, rows: Rows, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains and scores.

    Args:
      training: what to train.
      rows: on what.
      folder: for TensorBoard events.

    Returns:
      What was found, as JSON: `metrics` per output, `record` as training.json has it, `steps`, `step_ms` (median) and
      `seconds`; and the scores of the judged rows, float32 [rows] per output.

    Raises:
      UserError: when training diverges.
    """
    started = time.monotonic()
    keras.backend.clear_session()
    seed = training.training.seed
    keras.utils.set_random_seed(seed)
    columns, chosen, judged = rows.train, None, rows.evaluation
    if training.judged_on == "last_training_day":
        last = rows.last_training_day()
        chosen, judged = ~last, {name: np.asarray(values)[last] for name, values in rows.train.items()}
    features = [f.name for f in training.features]
    labels = [t.label for t in training.tasks]
    batch_size = training.training.batch_size
    batches = Batches(columns, features, labels, batch_size=batch_size, seed=seed, chosen=chosen)
    steps = training.training.epochs * batches.steps_per_epoch
    window = max(_SHORTEST_WINDOW, steps // _WINDOWS)
    ranker = Ranker(
        training.features,
        rows.tables,
        training.tasks,
        training.model,
        training.balancer,
        training.optimizer,
        steps=max(1, steps),
        steps_per_epoch=max(1, batches.steps_per_epoch),
        seed=seed,
        probe_every=window,
        precision=training.training.precision,
        xla=training.training.xla,
    )
    ranker.compile()
    record = _TimedRecord(folder, ranker, log_every=window)
    train(ranker, batches, record, Checkpoints(str(folder), ranker, record, every=0), training.training)
    rated = Batches(judged, features, labels, batch_size=batch_size, seed=seed)
    parts = [ranker(batch) for batch in rated.in_order()]
    scores = {name: np.concatenate([part[name] for part in parts]).astype(np.float32) for name in parts[0]}
    # The first step is traced and compiled, which takes longer than many steps.
    durations = np.diff(record.ends)
    found = {
        "metrics": {o.task: judge(o, judged, scores[o.name]) for o in outputs(training.tasks)},
        "record": record.document(),
        "steps": record.steps,
        "step_ms": 1000 * float(np.median(durations)) if len(durations) else None,
        "seconds": time.monotonic() - started,
    }
    return json.loads(json.dumps(found)), scores
