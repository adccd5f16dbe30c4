"""A transform fitted on a few rows, for tests of what stands behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.features import BucketedFeature, IdFeature, IdListFeature, NumberFeature, Vocabulary

FEATURES = (
    IdFeature(kind="id", name="user", side="user", dimension=4),
    IdListFeature(kind="id_list", name="history", side="user", dimension=4, max_length=3, shares="item"),
    IdFeature(kind="id", name="item", side="item", dimension=4, vocabulary=Vocabulary(min_count=2, oov_buckets=2)),
    IdFeature(kind="id", name="seller", side="item", dimension=2, hash_buckets=5),
    NumberFeature(kind="number", name="price", side="item", log=True),
    NumberFeature(kind="number", name="age", side="user", scaling="min_max"),
    BucketedFeature(kind="bucketed", name="hour", side="context", dimension=2, boundaries=(6.0, 12.0, 18.0)),
    BucketedFeature(kind="bucketed", name="stock", side="item", dimension=2, quantiles=4),
)
LABELS = ("click", "purchase")


def raw_rows(rows: int, seed: int = 0) -> list[dict[str, list]]:
    """Rows as tf.Examples carry them: a list of values per column, empty where the value is missing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        click = int(rng.random() < 0.4)
        made.append(
            {
                "user": [b"u%d" % rng.integers(0, 9)],
                "history": [b"i%d" % x for x in rng.integers(0, 6, rng.integers(0, 6))],
                "item": [b"i%d" % rng.integers(0, 6)] if i % 7 else [],
                "seller": [b"s%d" % rng.integers(0, 4)],
                "price": [float(np.float32(rng.gamma(2.0, 10.0)))] if i % 5 else [],
                "age": [float(rng.integers(18, 80))],
                "hour": [float(rng.integers(0, 24))],
                "stock": [float(rng.integers(0, 100))],
                "click": [click],
                "purchase": [int(click and rng.random() < 0.5)],
                "weight": [4.0 if click else 1.0 + i % 2],
            }
        )
    made.append(made[0] | {"item": [b"once"]})
    return made


def raw_schema(features=FEATURES):
    """The Schema proto of rows with these features and the labels, every column of any length."""
    import tensorflow as tf
    from tensorflow_transform.tf_metadata import schema_utils

    from models.preprocessing import raw_dtype

    spec = {f.name: tf.io.VarLenFeature(raw_dtype(f)) for f in features}
    spec |= {name: tf.io.VarLenFeature(tf.int64) for name in LABELS}
    spec["weight"] = tf.io.VarLenFeature(tf.float32)
    return schema_utils.schema_from_feature_spec(spec)


def serialize(row: dict[str, list]) -> bytes:
    import tensorflow as tf

    features = {}
    for name, values in row.items():
        if name in LABELS:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        elif name in ("price", "age", "hour", "stock", "weight") or (values and isinstance(values[0], float)):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def fit_transform(rows: list[dict[str, list]], folder: Path, features=FEATURES, weighted: bool = True):
    """Runs the project's preprocessing_fn on the rows, as the Transform component does.

    Returns:
      The TFTransformOutput.
    """
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
    from tfx_bsl.tfxio import tf_example_record

    from models.preprocessing import features_to_json, preprocessing_fn

    config = {"features": features_to_json(features), "labels": list(LABELS), "weighted": weighted}
    io = tf_example_record.TFExampleBeamRecord(physical_format="inmem", schema=raw_schema(features))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        batches = pipeline | beam.Create([serialize(r) for r in rows]) | io.BeamSource()
        transform_fn = (batches, io.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, config)
        )
        transform_fn | tft_beam.WriteTransformFn(str(folder / "transform"))
    raw_metadata = dataset_metadata.DatasetMetadata(raw_schema(features))
    metadata_io.write_metadata(raw_metadata, str(folder / "transform" / tft.TFTransformOutput.RAW_METADATA_DIR))
    return tft.TFTransformOutput(str(folder / "transform"))


@pytest.fixture(scope="session")
def transform(tmp_path_factory):
    """The transform of `FEATURES`, fitted on `raw_rows(200)`."""
    return fit_transform(raw_rows(200), tmp_path_factory.mktemp("transform"))
