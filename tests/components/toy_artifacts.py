"""Small artifacts to run executors on: examples, statistics, and a SavedModel with known scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.types import artifact_utils, standard_artifacts


def artifact(kind, path: Path, splits=()):
    made = kind()
    made.uri = str(path)
    path.mkdir(parents=True, exist_ok=True)
    if splits:
        made.split_names = artifact_utils.encode_split_names(list(splits))
    return made


def write_examples(path: Path, columns: dict[str, np.ndarray], split: str = "eval"):
    """Examples with one value per column and row: text as bytes, integers as int64, others as float."""
    made = artifact(standard_artifacts.Examples, path, [split])
    folder = path / f"Split-{split}"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001")) as writer:
        for row in zip(*columns.values()):
            features = {name: _feature(value) for name, value in zip(columns, row)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return made


def _feature(value) -> tf.train.Feature:
    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    if isinstance(value, np.integer):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def statistics_of(columns: dict[str, list]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Statistics of rows given by column; a value is a list, or None where it is missing."""
    from tensorflow_data_validation.statistics import stats_impl, stats_options

    batch = pa.RecordBatch.from_arrays([pa.array(values) for values in columns.values()], names=list(columns))
    return stats_impl.generate_statistics_in_memory(batch, stats_options.StatsOptions())


def write_statistics(path: Path, by_split: dict[str, statistics_pb2.DatasetFeatureStatisticsList]):
    made = artifact(standard_artifacts.ExampleStatistics, path, by_split)
    for split, statistics in by_split.items():
        (path / f"Split-{split}").mkdir()
        (path / f"Split-{split}" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    return made


class ToyRanker(tf.Module):
    """pctr = sigmoid(slope · x), pcvr = sigmoid(slope · z), pctcvr = their product."""

    def __init__(self, slope: float, outputs: tuple[str, ...]):
        super().__init__()
        self.slope = tf.Variable(slope)
        self.names = outputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(self, examples):
        spec = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("x", "z")}
        raw = tf.io.parse_example(examples, spec)
        pctr, pcvr = tf.sigmoid(self.slope * raw["x"]), tf.sigmoid(self.slope * raw["z"])
        scores = {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr}
        return {name: scores[name] for name in self.names}


def save_model(folder: Path, slope: float = 1.0, outputs: tuple[str, ...] = ("pctr", "pcvr", "pctcvr")) -> Path:
    module = ToyRanker(slope, outputs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serving_default})
    return folder


def model_artifact(path: Path, slope: float = 1.0, outputs: tuple[str, ...] = ("pctr", "pcvr", "pctcvr")):
    made = artifact(standard_artifacts.Model, path)
    save_model(path / "Format-Serving", slope, outputs)
    return made


def baseline_artifact(path: Path, version: int | None = None, slope: float = 1.0, **options):
    """What the Baseline component leaves, with a toy model where a version is given."""
    made = model_artifact(path, slope, **options) if version else artifact(standard_artifacts.Model, path)
    (path / "baseline.json").write_text(json.dumps({"version": version}))
    return made
