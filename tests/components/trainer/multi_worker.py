"""Trains with every balancer, as a worker beside others or on one device and on two logical ones; then calls run_fn.

Usage: python multi_worker.py worker|devices FOLDER NAME. Writes FOLDER/NAME.npz: all that was learned, by
'devices/balancer/variable'; devices are 'one', 'mirrored' or 'workers'.
"""

# ruff: noqa: E402  (the process is prepared, and its devices are set, before TensorFlow is used)

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path
from unittest import mock

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
import tf_keras as keras
from pydantic import TypeAdapter
from tfx.components.trainer.fn_args_utils import FnArgs

from components.trainer import run_fn as trainer
from components.trainer.checkpoints import Checkpoints
from components.trainer.config import TrainerSpec, TrainingConfig
from components.trainer.devices import strategy_of
from models.balancing import AnyBalancer, PCGrad
from models.features import IdFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.tasks import DEFAULT_TASKS
from tests.components.trainer.toy_training import Killed, Training

KINDS = typing.get_args(typing.get_args(AnyBalancer)[0])
BALANCERS = [typing.get_args(kind.model_fields["name"].annotation)[0] for kind in KINDS]
MODEL = ModelConfig.from_json(
    json.dumps({"trunk": {"name": "shared_bottom", "bottom": {"units": [4]}}, "heads": {"name": "plain", "tower": []}})
)
# Adam would blow the rounding of a gradient of 0 up to a whole step.
OPTIMIZER = OptimizerConfig.from_json(
    json.dumps({"dense": {"epsilon": 1e-2, "learning_rate": 0.05}, "embedding": {"initial_accumulator": 0.1}})
)
BATCH = 14  # 120 rows are eight batches and one of 8 rows, whose halves have 7 and 1
FEATURES = (
    IdFeature(kind="id", name="item", side="item", dimension=2, hash_buckets=8),
    NumberFeature(kind="number", name="row", side="user"),
)
"""Those of the toy rows, as a transform knows them."""
DIES_AFTER, CHECKPOINT_EVERY = 5, 3


def learned(balancer: str, folder: Path, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(1)
    training = Training(
        [str(folder / "rows" / "part-*")],
        folder / "record",
        training=TrainingConfig(batch_size=BATCH, probe_every=0, checkpoint_every=0),
        model=MODEL,
        balancer=TypeAdapter(AnyBalancer).validate_python({"name": balancer}),
        optimizer=OPTIMIZER,
        strategy=strategy,
    ).run()
    ranker = training.ranker
    found = {f"{i} {v.name}": v.numpy() for i, v in enumerate(ranker.trainable_variables)}
    found |= {f"balancer {name}": v.numpy() for name, v in ranker.balancer_state.items()}
    found |= {f"mean {m.name}": m.result().numpy() for m in ranker.loss_means}
    found |= {"task_weights": ranker.task_weights.numpy(), "left_out": ranker.left_out.numpy()}
    found["steps"] = ranker.dense_optimizer.iterations.numpy()
    return found


def run(
    folder: Path, outputs: Path, checkpoints: Path, strategy: tf.distribute.Strategy, die_after: int | None = None
) -> None:
    """Calls run_fn as TFX does."""
    spec = TrainerSpec(
        features=FEATURES,
        tasks=DEFAULT_TASKS,
        model=MODEL,
        balancer=PCGrad(name="pcgrad"),
        optimizer=OPTIMIZER,
        training=TrainingConfig(
            batch_size=BATCH, checkpoint_every=CHECKPOINT_EVERY, probe_every=4, strategy="multi_worker"
        ),
    )
    rows = [str(folder / "rows" / "part-*")]
    arguments = FnArgs(
        train_files=rows,
        eval_files=rows,
        transform_graph_path=str(folder / "transform"),
        serving_model_dir=str(outputs / "model" / "Format-Serving"),
        model_run_dir=str(outputs / "model_run"),
        custom_config={"spec": spec.canonical_json(), "checkpoints": str(checkpoints)},
    )

    class Mortal(Checkpoints):
        def after_step(self) -> None:
            super().after_step()
            if self._record.steps == die_after:
                raise Killed

    # A process has one strategy of several workers in its life.
    with (
        mock.patch.object(trainer, "strategy_of", lambda name: strategy),
        mock.patch.object(trainer, "Checkpoints", Mortal),
    ):
        trainer.run_fn(arguments)


def exported(model: Path) -> dict[str, np.ndarray]:
    """The weights in a SavedModel, by their place in it."""
    reader = tf.train.load_checkpoint(str(model / "Format-Serving" / "variables" / "variables"))
    parts = ("encoder/", "trunk/", "heads/")
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(parts) and n.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in sorted(names)}


def as_worker(folder: Path, name: str) -> dict[str, np.ndarray]:
    strategy = strategy_of("multi_worker")
    assert strategy.num_replicas_in_sync == 2
    found = {f"workers/{b}/{k}": v for b in BALANCERS for k, v in learned(b, folder, strategy).items()}
    checkpoints = folder / "checkpoints"
    try:
        run(folder, folder / name / "killed", checkpoints, strategy, DIES_AFTER)
        raise AssertionError("not killed")
    except Killed:
        found["left"] = sorted(p.name for p in checkpoints.glob("*/*"))
    run(folder, folder / name / "resumed", checkpoints, strategy)
    return found


def on_devices(folder: Path, name: str) -> dict[str, np.ndarray]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert mirrored.num_replicas_in_sync == 2
    one = tf.distribute.get_strategy()
    found = {f"one/{b}/{k}": v for b in BALANCERS for k, v in learned(b, folder, one).items()}
    found |= {f"mirrored/{b}/{k}": v for b in BALANCERS for k, v in learned(b, folder, mirrored).items()}
    run(folder, folder / name, folder / "checkpoints of one", one)
    return found


def main(kind: str, folder: str, name: str) -> None:
    found = (as_worker if kind == "worker" else on_devices)(Path(folder), name)
    np.savez(Path(folder, f"{name}.npz"), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
