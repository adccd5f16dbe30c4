"""Makes the rows of a sweep from joined examples, once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_transform as tft

from components.trainer.input import count_examples
from models.example_files import example_records
from models.features import Feature
from models.preprocessing import table_rows
from pipeline.sweep.rows import SPLITS, Columns, Rows

_USER, _TIME = "user_id", "event_time"
_BATCH = 8192
_HASHES = 2**30


def make_rows(
    folder: Path,
    examples: Path,
    transform_graph: Path,
    features: tuple[Feature, ...],
    labels: tuple[str, ...],
    timezone: str,
    fingerprint: str,
    about: int | None = None,
) -> Rows:
    """Transforms joined examples into arrays, where the folder does not have those of the fingerprint yet.

    Args:
      folder: where to keep them.
      examples: of LogExampleGen, with the splits train and eval.
      transform_graph: of Transform.
      features: which columns to keep.
      labels: columns of the labels, in the order of the chain.
      timezone: zone in which a day begins.
      fingerprint: of all that decides on the rows.
      about: number of training rows to keep, by keeping the rows of a share of the users in both splits.
    """
    described = folder / "about.json"
    if described.exists() and json.loads(described.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
        return Rows.read(folder)
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    transform = tft.TFTransformOutput(str(transform_graph))
    share = 1.0
    if about is not None:
        share = min(1.0, about / max(1, count_examples([str(examples / "Split-train" / "*")])))
    columns = {split: _split(examples / f"Split-{split}", transform, features, labels, share) for split in SPLITS}
    known = np.unique(np.concatenate([columns[split]["@user"] for split in SPLITS]))
    names = list(columns["train"])
    for split, found in columns.items():
        found["@user"] = np.searchsorted(known, found["@user"]).astype(np.int32)
        found["@day"] = _days(found["@day"], timezone)
        (aside / split).mkdir(parents=True)
        for i, name in enumerate(names):
            np.save(aside / split / f"{i}.npy", found[name])
    text = json.dumps({"fingerprint": fingerprint, "columns": names, "tables": table_rows(features, transform)})
    (aside / "about.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    return Rows.read(folder)


def _split(
    folder: Path, transform: tft.TFTransformOutput, features: tuple[Feature, ...], labels: tuple[str, ...], share: float
) -> Columns:
    names = [*(f.name for f in features), *labels]
    spec = {name: feature for name, feature in transform.raw_feature_spec().items() if name in names}
    keys = {_USER: tf.io.FixedLenFeature([], tf.string), _TIME: tf.io.FixedLenFeature([], tf.int64)}
    layer = transform.transform_features_layer()

    # Nothing in it needs conversion, which takes seconds.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        if share < 1:
            users = tf.io.parse_example(serialized, {_USER: keys[_USER]})[_USER]
            chosen = tf.strings.to_hash_bucket_fast(users, _HASHES) < int(share * _HASHES)
            serialized = tf.boolean_mask(serialized, chosen)
        who = tf.io.parse_example(serialized, keys)
        found = {name: _narrow(values) for name, values in layer(tf.io.parse_example(serialized, spec)).items()}
        return {name: found[name] for name in names} | {"@user": who[_USER], "@day": who[_TIME]}

    batches = example_records(*sorted(str(path) for path in folder.glob("*"))).batch(_BATCH)
    parts = [{name: value.numpy() for name, value in parse(batch).items()} for batch in batches]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: values.astype(np.int8) if name in labels else values for name, values in columns.items()}


def _narrow(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(values, tf.int32) if values.dtype == tf.int64 else values


def _days(times: np.ndarray, timezone: str) -> np.ndarray:
    local = pd.to_datetime(pd.Series(times), unit="ms", utc=True).dt.tz_convert(timezone).dt.tz_localize(None)
    return local.to_numpy().astype("datetime64[D]").astype(np.int32)
