"""Files that TF Serving reads beside a SavedModel: requests to warm it up, and how to batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WARM_UP = "assets.extra/tf_serving_warmup_requests"
BATCHING = "batching_params.pbtxt"

_BATCHING = """\
# TF Serving reads this with --enable_batching and --enable_per_model_batching_parameters alone.
# Leave batching off where clients send `rank`: a batch has inputs of one length, and `rank` is a batch already.
# Clients of `predict` then send lists of one length.
max_batch_size {{ value: {rows} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 100 }}
"""


def write_warm_up(folder: Path, model: str, requests: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Writes requests as a TFRecord file of PredictionLogs.

    Args:
      folder: where the model's files have their places.
      model: its name.
      requests: signature and inputs of each.
    """
    path = folder / WARM_UP
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            for name, values in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def write_batching(folder: Path, rows: int) -> None:
    """Writes parameters for batches of at most so many rows."""
    (folder / BATCHING).write_text(_BATCHING.format(rows=rows))
