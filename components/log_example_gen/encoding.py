"""Writes columns as TFRecord files of tf.Examples."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tfx.dsl.io import fileio
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

_ROWS = 1 << 16


def to_examples(table: pa.Table) -> pa.Table:
    """The columns in the types of tf.Example: lists of bytes, float32 or int64, empty where a value is missing."""
    arrays = {}
    for name in table.column_names:
        column = table.column(name)
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        arrays[name] = _lists(array)
    return pa.table(arrays)


def write_examples(table: pa.Table, directory: str, partial: str, shard: int, shards: int) -> None:
    """Writes a shard, whole or not at all: a worker that is tried again leaves the same file.

    Args:
      table: columns of the examples.
      directory: where the shard appears.
      partial: folder on the same file system for files that are not whole.
      shard: its number, from 0.
      shards: how many there are.
    """
    encoder = RecordBatchToExamplesEncoder()
    part = os.path.join(partial, uuid.uuid4().hex)
    with tf.io.TFRecordWriter(part) as writer:
        for batch in to_examples(table).to_batches(_ROWS):
            for example in encoder.encode(batch):
                writer.write(example)
    fileio.rename(part, os.path.join(directory, f"data_tfrecord-{shard:05d}-of-{shards:05d}"), overwrite=True)


def _lists(array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        offsets = np.concatenate([[0], np.cumsum(np.asarray(array.value_lengths().fill_null(0)))])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array.flatten().cast(pa.binary()))
    present = np.asarray(array.is_valid())
    offsets = np.concatenate([[0], np.cumsum(present)])
    values = array.drop_null() if array.null_count else array
    kind = values.type
    if pa.types.is_string(kind):
        values = values.cast(pa.binary())
    elif pa.types.is_floating(kind):
        values = values.cast(pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
