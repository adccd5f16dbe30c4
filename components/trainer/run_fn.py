"""What TFX's Trainer calls: trains a ranker on transformed examples and exports it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras
from absl import logging
from tfx.components.trainer.fn_args_utils import FnArgs

from components.trainer.config import TrainerSpec
from components.trainer.input import count_examples, read_examples
from components.trainer.record import TrainingRecord
from models.preprocessing import table_rows
from models.ranker import Ranker
from serving.signatures import export
from serving.warm_start import warm_start


def run_fn(fn_args: FnArgs) -> None:
    """Trains on the `train` split, reports the losses on the `eval` split, exports the SavedModel.

    Args:
      fn_args: as TFX fills it; `custom_config["spec"]` is the canonical JSON of a `TrainerSpec`.

    Outputs:
      The SavedModel in `fn_args.serving_model_dir`; `training.json` and TensorBoard events in
      `fn_args.model_run_dir`.
    """
    spec = TrainerSpec.from_json(fn_args.custom_config["spec"])
    keras.utils.set_random_seed(spec.training.seed)
    transform = tft.TFTransformOutput(fn_args.transform_graph_path)
    labels = [t.label for t in spec.tasks]
    train = read_examples(fn_args.train_files, transform, spec.features, labels, spec.training, shuffle=True)
    evaluation = read_examples(fn_args.eval_files, transform, spec.features, labels, spec.training, shuffle=False)

    ranker = Ranker(
        spec.features,
        table_rows(spec.features, transform),
        spec.tasks,
        spec.model,
        spec.balancer,
        spec.optimizer,
        steps=spec.training.epochs * math.ceil(count_examples(fn_args.train_files) / spec.training.batch_size),
        seed=spec.training.seed,
        probe_every=spec.training.probe_every,
    )
    ranker.compile()
    model = spec.model.model_dump(mode="json")
    record = TrainingRecord(Path(fn_args.model_run_dir), log_every=spec.training.probe_every or 100)
    if spec.training.warm_start and fn_args.base_model and tf.io.gfile.exists(fn_args.base_model):
        carried = warm_start(ranker, transform, spec.features, model, fn_args.base_model)
        record.warm_start = str(carried)
    else:
        record.warm_start = "none: no model in service" if spec.training.warm_start else "none: turned off"
    logging.info("Warm start: %s.", record.warm_start)

    started = time.monotonic()
    ranker.fit(train, epochs=spec.training.epochs, callbacks=[record], verbose=0)
    record.seconds = time.monotonic() - started
    record.evaluation = {k: float(v) for k, v in ranker.evaluate(evaluation, verbose=0, return_dict=True).items()}
    record.refuse_divergence(record.evaluation)
    record.write()
    losses = json.dumps(record.evaluation)
    logging.info("Trained %d steps in %.0f s; losses on the evaluation days: %s.", record.steps, record.seconds, losses)
    export(ranker, transform, spec.features, fn_args.serving_model_dir, model)
