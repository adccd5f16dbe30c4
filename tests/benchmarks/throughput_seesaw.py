"""Seesaw's part of throughput.py: the ranker at its defaults on transformed tf.Examples, as its trainer reads them."""

from __future__ import annotations

import json

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
import tf_keras as keras
from throughput_common import (
    DIMENSION,
    ESMM_UNITS,
    EXPERT_UNITS,
    EXPERTS,
    LABELS,
    PLE_LEVELS,
    PLE_SHARED_EXPERTS,
    PLE_TASK_EXPERTS,
    TOWER_UNITS,
    Clock,
    Task,
    inputs_of,
    run_worker,
    vocabularies,
)

from components.trainer.config import TrainingConfig
from components.trainer.input import read_examples
from models.balancing import Static
from models.features import Feature, IdFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS

MODELS = {
    "mmoe": {
        "preset": "mmoe",
        "trunk": {"name": "mmoe", "experts": EXPERTS, "expert": {"units": EXPERT_UNITS}},
        "heads": {"name": "entire_space", "tower": TOWER_UNITS},
    },
    "ple": {
        "preset": "ple",
        "trunk": {
            "name": "ple",
            "levels": PLE_LEVELS,
            "task_experts": PLE_TASK_EXPERTS,
            "shared_experts": PLE_SHARED_EXPERTS,
            "expert": {"units": EXPERT_UNITS},
        },
        "heads": {"name": "entire_space", "tower": TOWER_UNITS},
    },
    "esmm": {"preset": "esmm", "heads": {"name": "entire_space", "tower": ESMM_UNITS}},
}


class Transform:
    """Stands for the tft.TFTransformOutput that the input reads its feature specification from."""

    def __init__(self, features: tuple[Feature, ...]):
        self._features = features

    def transformed_feature_spec(self) -> dict[str, tf.io.FixedLenFeature]:
        spec = {
            f.name: tf.io.FixedLenFeature([], tf.float32 if isinstance(f, NumberFeature) else tf.int64)
            for f in self._features
        }
        return spec | {label: tf.io.FixedLenFeature([], tf.float32) for label in LABELS}


def work(task: Task, clock: Clock) -> tuple[np.ndarray, dict]:
    keras.utils.set_random_seed(task.seed)
    sizes = vocabularies(task.largest)
    features = tuple(
        IdFeature(kind="id", name=name, side="user", dimension=DIMENSION)
        if name in sizes
        else NumberFeature(kind="number", name=name, side="user", scaling="none")
        for name in inputs_of(task.model)
    )
    training = TrainingConfig(epochs=task.epochs, batch_size=task.batch_size, seed=task.seed)
    transform = Transform(features)

    def batches(pattern: str) -> tf.data.Dataset:
        return read_examples([pattern], transform, features, list(LABELS), training, shuffle=True)

    held_out = task.columns("held_out")
    steps = -(-task.rows // task.batch_size)
    optimizer = OptimizerConfig()
    ranker = Ranker(
        features,
        {name: size + 1 for name, size in sizes.items()},
        DEFAULT_TASKS,
        ModelConfig.model_validate_json(json.dumps(MODELS[task.model])),
        Static(name="static"),
        optimizer,
        steps=task.epochs * steps,
        seed=task.seed,
        probe_every=training.probe_every,
        precision=task.precision,
    )
    ranker.compile()
    ranker.fit(batches(task.warm_up_examples), verbose=0)
    train = batches(task.examples)
    with clock.measure("train"):
        ranker.fit(train, epochs=task.epochs, verbose=0)
    with clock.measure("input"):
        for _ in train:
            pass

    predict = tf.function(lambda batch: ranker(batch))
    inputs = {name: held_out[name] for name in inputs_of(task.model)}
    parts = [predict(batch) for batch in tf.data.Dataset.from_tensor_slices(inputs).batch(8192)]
    predictions = np.stack([np.concatenate([p[name] for p in parts]) for name in ("pctr", "pctcvr")])

    # The step alone: the same batches over and over, from memory.
    in_memory = batches(task.warm_up_examples).cache().repeat().take(steps)
    with clock.measure("step"):
        ranker.fit(in_memory, verbose=0)
    dense, table = optimizer.dense, optimizer.embedding
    notes = {
        "version": f"Seesaw, TensorFlow {tf.__version__}",
        "optimizer": f"Adam {dense.learning_rate:g}, tables {type(table).__doc__.split()[0]} {table.learning_rate:g}",
        "parameters": ranker.count_params(),
    }
    return predictions, notes


if __name__ == "__main__":
    run_worker(work)
