"""The trainer's input: transformed tf.Examples in batches."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from components.trainer.config import TrainingConfig
from models.features import Feature


def read_examples(
    patterns: list[str],
    transform: tft.TFTransformOutput,
    features: tuple[Feature, ...],
    labels: list[str],
    training: TrainingConfig,
    *,
    shuffle: bool,
) -> tf.data.Dataset:
    """Batches ({feature: tensor}, labels float32 [batch, K]), one pass over the files.

    With `shuffle`, files and rows come in a new order at every pass, decided by `training.seed`.
    """
    spec = transform.transformed_feature_spec()
    spec = {name: spec[name] for name in (*(f.name for f in features), *labels)}
    files, compression = _files(patterns)

    def parse(serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = tf.io.parse_example(serialized, spec)
        targets = tf.stack([tf.cast(parsed.pop(label), tf.float32) for label in labels], axis=1)
        return parsed, targets

    names = tf.data.Dataset.from_tensor_slices(files)
    if shuffle:
        names = names.shuffle(len(files), seed=training.seed)
    rows = names.interleave(
        lambda f: tf.data.TFRecordDataset(f, compression), cycle_length=4, num_parallel_calls=2, deterministic=True
    )
    if shuffle:
        rows = rows.shuffle(training.shuffle_rows, seed=training.seed)
    batches = rows.batch(training.batch_size).map(parse, num_parallel_calls=2, deterministic=True).prefetch(4)
    options = tf.data.Options()
    # The autotuner can stall for seconds at the end of a pass; parallelism is explicit instead.
    options.autotune.enabled = False
    return batches.with_options(options)


def count_examples(patterns: list[str]) -> int:
    """Number of examples in the files."""
    files, compression = _files(patterns)
    rows = tf.data.TFRecordDataset(files, compression, num_parallel_reads=2).batch(10_000)
    return sum(int(tf.shape(batch)[0]) for batch in rows)


def _files(patterns: list[str]) -> tuple[list[str], str]:
    """The files behind the patterns, and their compression."""
    files = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
    return files, "GZIP" if files and files[0].endswith(".gz") else ""
