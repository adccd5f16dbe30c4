"""Encodes columns as tf.Examples and writes them as TFRecord files.

tfx_bsl's RecordBatchToExamplesEncoder writes the features of every row in another order, so equal rows
are not equal bytes, and takes most of the time of a join. Here a column is written for all rows at
once: the wire format of a feature depends, but for the bytes of its values, on their lengths only.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx.dsl.io import fileio

_ROWS = 1 << 14

# Tags of the fields in tf.Example's messages; all of them are length-delimited.
_FEATURES = _FEATURE = _KEY = _VALUES = b"\x0a"
_FEATURE_VALUE = b"\x12"
_BYTES, _FLOATS, _INTEGERS = b"\x0a", b"\x12", b"\x1a"


def encode(table: pa.Table) -> Iterator[bytes]:
    """Serialized tf.Examples, one per row; equal rows are equal bytes.

    Args:
      table: columns of text (one bytes value), lists of text (bytes values), float64 (one float) or int64
        (one integer). A null is left out of the example.
    """
    for start in range(0, len(table), _ROWS):
        rows = table.slice(start, _ROWS)
        features = [_encode_column(name, rows.column(name).combine_chunks()) for name in sorted(rows.column_names)]
        yield from _with_head(_join(*features), lambda n: _FEATURES + _varint(n)).to_pylist()


def write_examples(table: pa.Table, directory: str, partial: str, shard: int, shards: int) -> None:
    """Writes a shard, whole or not at all: a worker that is tried again leaves the same file.

    Args:
      table: columns of the examples.
      directory: where the shard appears.
      partial: folder on the same file system for files that are not whole.
      shard: its number, from 0.
      shards: how many there are.
    """
    part = os.path.join(partial, uuid.uuid4().hex)
    with tf.io.TFRecordWriter(part) as writer:
        for example in encode(table):
            writer.write(example)
    fileio.rename(part, os.path.join(directory, f"data_tfrecord-{shard:05d}-of-{shards:05d}"), overwrite=True)


def _encode_column(name: str, column: pa.Array) -> pa.Array:
    """The entry of the feature in each row, empty where the value is missing."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    if pa.types.is_list(column.type):
        # The elements of a row lie one after the other: rows are a coarser cut of the same bytes.
        elements = _with_head(column.flatten().cast(pa.binary()), lambda n: _VALUES + _varint(n))
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
        cuts = _offsets(elements)[np.concatenate([[0], np.cumsum(lengths)])]
        entries = _with_head(_binary(cuts, elements.buffers()[2]), lambda n: _head(name, _BYTES, n))
    elif pa.types.is_string(column.type):
        text = pc.fill_null(column, "").cast(pa.binary())
        entries = _with_head(
            text, lambda n: _head(name, _BYTES, len(_VALUES + _varint(n)) + n) + _VALUES + _varint(n)
        )
    elif pa.types.is_floating(column.type):
        floats = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype("<f4")
        packed = _binary(np.arange(len(floats) + 1) * 4, pa.py_buffer(floats.tobytes()))
        entries = _with_head(packed, lambda n: _head(name, _FLOATS, 2 + n) + _VALUES + _varint(n))
    else:
        packed = _varints(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
        entries = _with_head(packed, lambda n: _head(name, _INTEGERS, 2 + n) + _VALUES + _varint(n))
    return pc.if_else(column.is_valid(), entries, pa.scalar(b"")) if column.null_count else entries


def _head(name: str, kind: bytes, size: int) -> bytes:
    """What stands before the `size` bytes of values in the entry of a feature."""
    values = kind + _varint(size)
    key = _KEY + _varint(len(name.encode())) + name.encode()
    before = key + _FEATURE_VALUE + _varint(len(values) + size) + values
    return _FEATURE + _varint(len(before) + size) + before


def _with_head(column: pa.Array, head: Callable[[int], bytes]) -> pa.Array:
    """Puts before each value a head that depends on the value's length."""
    lengths, which = np.unique(np.diff(_offsets(column)), return_inverse=True)
    heads = pa.array([head(int(n)) for n in lengths], pa.binary())
    return _join(heads.take(pa.array(which.reshape(-1))), column)


def _join(*columns: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*columns, pa.scalar(b""))


def _offsets(column: pa.Array) -> np.ndarray:
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _binary(offsets: np.ndarray, values: pa.Buffer | None) -> pa.Array:
    cuts = pa.py_buffer(offsets.astype(np.int32).tobytes())
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, cuts, values or pa.py_buffer(b"")])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(numbers: np.ndarray) -> pa.Array:
    """int64 as varints: seven bits a byte, the lowest first, the high bit on all bytes but the last."""
    unsigned = numbers.astype(np.int64).view(np.uint64)
    shifts = np.arange(0, 70, 7, dtype=np.uint64)
    sevens = unsigned[:, None] >> shifts[None, :]
    sizes = np.maximum(1, (sevens > 0).sum(1))
    place = np.arange(len(shifts))[None, :]
    more = np.where(place < sizes[:, None] - 1, np.uint8(0x80), np.uint8(0))
    bytes_ = (sevens & np.uint64(0x7F)).astype(np.uint8) | more
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return _binary(offsets, pa.py_buffer(bytes_[place < sizes[:, None]].tobytes()))
