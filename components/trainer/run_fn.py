"""What TFX's Trainer calls: trains a ranker on transformed examples and exports it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras
from absl import logging
from tfx.components.trainer.fn_args_utils import FnArgs

from components.trainer.checkpoints import Checkpoints, checkpoint_folder
from components.trainer.config import TrainerSpec
from components.trainer.devices import distributed, own_files, strategy_of, wait_for_all
from components.trainer.guard import refuse_divergence
from components.trainer.input import Examples
from components.trainer.loop import train
from components.trainer.record import TrainingRecord
from components.trainer.reference import score_reference
from models.preprocessing import table_rows
from models.ranker import Ranker
from models.tasks import WEIGHT
from serving.signatures import export
from serving.warm_start import warm_start


def run_fn(fn_args: FnArgs) -> None:
    """Trains on the `train` split, reports losses and metrics on the `eval` split, exports the SavedModel.

    Where an earlier attempt at the same run was interrupted, training goes on from its last checkpoint.

    Args:
      fn_args: as TFX fills it; `custom_config["spec"]` is the canonical JSON of a `TrainerSpec`, and
        `custom_config["checkpoints"]` the folder of all runs' checkpoints.

    Outputs:
      The SavedModel in `fn_args.serving_model_dir`; `training.json`, `training.png`, `reference.npz` and TensorBoard
      events in `fn_args.model_run_dir`.
    """
    spec = TrainerSpec.from_json(fn_args.custom_config["spec"])
    training = spec.training
    strategy = strategy_of(training.strategy)
    with own_files(strategy) as own:
        _run(fn_args, spec, strategy, own)


def _run(fn_args: FnArgs, spec: TrainerSpec, strategy: tf.distribute.Strategy, own: Callable[[str], str]) -> None:
    training = spec.training
    keras.utils.set_random_seed(training.seed)
    transform = tft.TFTransformOutput(fn_args.transform_graph_path)
    labels = [t.label for t in spec.tasks]
    # Evaluation days are whole: only the rows of training days stand for others too.
    weighted = WEIGHT in transform.transformed_feature_spec()
    examples = Examples(fn_args.train_files, transform, spec.features, labels, training, weighted=weighted)
    evaluation = Examples(
        fn_args.eval_files, transform, spec.features, labels, training.model_copy(update={"cache": False})
    )
    with strategy.scope():
        ranker = Ranker(
            spec.features,
            table_rows(spec.features, transform),
            spec.tasks,
            spec.model,
            spec.balancer,
            spec.optimizer,
            steps=training.epochs * examples.steps_per_epoch,
            steps_per_epoch=examples.steps_per_epoch,
            seed=training.seed,
            probe_every=training.probe_every,
            precision=training.precision,
            xla=training.xla,
        )
        ranker.compile()
    model = spec.model.model_dump(mode="json")
    record = TrainingRecord(Path(own(fn_args.model_run_dir)), ranker, log_every=training.probe_every or 100)
    folder = checkpoint_folder(fn_args.custom_config["checkpoints"], _decided_by(fn_args))
    checkpoints = Checkpoints(folder, ranker, record, every=training.checkpoint_every, write_to=own(folder))
    if not checkpoints.restore():
        if training.warm_start and fn_args.base_model and tf.io.gfile.exists(fn_args.base_model):
            record.warm_start = str(warm_start(ranker, transform, spec.features, model, fn_args.base_model))
        else:
            record.warm_start = "none: no model in service" if training.warm_start else "none: turned off"
    logging.info("Warm start: %s.", record.warm_start)

    train(ranker, examples, record, checkpoints, training)
    batches = distributed(strategy, evaluation.in_order)
    # Of a distributed data set, Keras does not know the end.
    steps = evaluation.steps_per_epoch if strategy.num_replicas_in_sync > 1 else None
    found = ranker.evaluate(batches, steps=steps, verbose=0, return_dict=True)
    refuse_divergence({mean.name: float(found[mean.name]) for mean in ranker.loss_means})
    # An AUC is not defined where the evaluation days lack a class.
    record.evaluation = {name: float(value) for name, value in found.items() if np.isfinite(value)}
    record.write()
    shown = json.dumps(record.evaluation)
    logging.info("Trained %d steps in %.0f s; on the evaluation days: %s.", record.steps, record.seconds, shown)
    score_reference(ranker, evaluation).write(own(fn_args.model_run_dir))
    export(ranker, transform, spec.features, own(fn_args.serving_model_dir), model, spec.value)
    # The others' process ends with the chief's model in its place, as TFX expects of it.
    wait_for_all(strategy)
    checkpoints.delete()


def _decided_by(fn_args: FnArgs) -> dict[str, Any]:
    """All that a training run depends on; the folders that TFX gives it are new at every attempt."""
    return {
        **{key: value for key, value in fn_args.custom_config.items() if key != "checkpoints"},
        "train": fn_args.train_files,
        "transform": fn_args.transform_graph_path,
        "base_model": fn_args.base_model,
    }
