"""A training run of seconds, on rows whose number feature tells which row it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from components.trainer.checkpoints import Checkpoints
from components.trainer.config import TrainingConfig
from components.trainer.devices import strategy_of
from components.trainer.input import Examples
from components.trainer.loop import train
from components.trainer.record import TrainingRecord
from models.balancing import AnyBalancer, Static
from models.features import IdFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS

FEATURES = (
    IdFeature(kind="id", name="item", side="item", dimension=2),
    NumberFeature(kind="number", name="row", side="item"),
)
LABELS = ["click", "purchase"]
FILES, ROWS = 3, 40


class Transform:
    """Stands for the transform where only the form of its output is read."""

    def transformed_feature_spec(self):
        dtypes = {"item": tf.int64, "row": tf.float32, "click": tf.int64, "purchase": tf.int64}
        return {name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items()}


def write_rows(folder: Path, *, compression: str = "", numbers: dict[int, float] | None = None) -> list[str]:
    """Writes FILES files of ROWS rows each; `numbers` takes the place of some rows' number."""
    folder.mkdir(parents=True, exist_ok=True)
    ending = ".gz" if compression else ""
    for file in range(FILES):
        with tf.io.TFRecordWriter(str(folder / f"part-{file}{ending}"), compression) as writer:
            for i in range(file * ROWS, (file + 1) * ROWS):
                values = {"item": i % 7, "click": i % 2, "purchase": i % 4 == 3}
                ints = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])) for k, v in values.items()}
                number = (numbers or {}).get(i, i)
                row = tf.train.Feature(float_list=tf.train.FloatList(value=[number]))
                example = tf.train.Example(features=tf.train.Features(feature={**ints, "row": row}))
                writer.write(example.SerializeToString())
    return [str(folder / "part-*")]


def examples(patterns: list[str], **training) -> Examples:
    given = {"batch_size": 16, "shuffle_rows": 1000, **training}
    return Examples(patterns, Transform(), FEATURES, LABELS, TrainingConfig(**given))


class Killed(Exception):
    """Stands for the death of the process."""


class Training:
    """What run_fn makes, without TFX."""

    def __init__(
        self,
        patterns: list[str],
        folder: Path,
        *,
        training: TrainingConfig,
        model: ModelConfig | None = None,
        balancer: AnyBalancer = Static(name="static"),
        checkpoints: Path | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.config = training
        self.examples = examples(patterns, **training.model_dump())
        with (strategy or strategy_of(training.strategy)).scope():
            self.ranker = Ranker(
                FEATURES,
                {"item": 8},
                DEFAULT_TASKS,
                model or ModelConfig(preset="shared_bottom"),
                balancer,
                optimizer,
                steps=training.epochs * self.examples.steps_per_epoch,
                steps_per_epoch=self.examples.steps_per_epoch,
                seed=training.seed,
                probe_every=training.probe_every,
                precision=training.precision,
                xla=training.xla,
            )
            self.ranker.compile()
        self.record = TrainingRecord(folder, self.ranker, log_every=training.probe_every or 100)
        every = training.checkpoint_every if checkpoints else 0
        self.checkpoints = Checkpoints(str(checkpoints or folder), self.ranker, self.record, every=every)

    def run(self, die_after: int | None = None) -> Training:
        """Trains; with `die_after`, raises Killed at the end of that step."""
        if die_after is not None:
            after_step = self.checkpoints.after_step

            def dying() -> None:
                after_step()
                if self.record.steps == die_after:
                    raise Killed

            self.checkpoints.after_step = dying  # type: ignore[method-assign]
        train(self.ranker, self.examples, self.record, self.checkpoints, self.config)
        return self

    def everything(self) -> dict[str, np.ndarray]:
        """Every number of ranker, optimizers and loss means, by its path in a checkpoint; slots included."""
        path = self.checkpoints.checkpoint.write(str(self.record.folder / "everything"))
        reader = tf.train.load_checkpoint(path)
        found = {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
        # The save counter tells how often it was saved; the record holds the seconds, and is compared by itself.
        return {name: value for name, value in found.items() if name.startswith("ranker/")}
