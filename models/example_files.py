"""Files of tf.Examples: TFRecords, as TFX writes them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def compression_of(files: Sequence[str]) -> str:
    """'GZIP' or '', by the name of the first file: those of an artifact are alike."""
    return "GZIP" if files and files[0].endswith(".gz") else ""


def example_records(*files: str) -> tf.data.Dataset:
    """The serialized tf.Examples of some files, one file after the other."""
    return tf.data.TFRecordDataset(files, compression_of(files))
