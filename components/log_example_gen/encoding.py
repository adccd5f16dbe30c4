"""Encodes columns as tf.Examples and writes them as TFRecord files.

tfx_bsl's RecordBatchToExamplesEncoder writes the features of every row in another order, so equal rows
are not equal bytes, and takes most of the time of a join; so does TensorFlow's writer, row by row. Here a
column is written for all rows at once: the wire format of a feature depends, but for the bytes of its
values, on their lengths only. What is left to do per row is the checksum that the file format asks for.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx.dsl.io import fileio

from components.log_example_gen.buckets import create

_ROWS = 1 << 13
"""Rows encoded at once: few enough for the processor's cache and for the allocator to hand out the same memory."""

# Tags of the fields in tf.Example's messages; all of them are length-delimited.
_FEATURES = _FEATURE = _KEY = _VALUES = b"\x0a"
_FEATURE_VALUE = b"\x12"
_BYTES, _FLOATS, _INTEGERS = b"\x0a", b"\x12", b"\x1a"

_FEW = 256
"""Up to so many different small integers are encoded once each."""

_LENGTH_BYTES, _CRC_BYTES = 8 + 4, 4  # before an example in a TFRecord file, and after it


def encode(table: pa.Table) -> Iterator[bytes]:
    """Serialized tf.Examples, one per row; equal rows are equal bytes.

    Args:
      table: columns of text (one bytes value), lists of text (bytes values), float64 (one float) or int64
        (one integer). A null is left out of the example.
    """
    for rows in _slices(table):
        entries, sizes = _encode_columns(rows)
        yield from _join(_by_size(sizes, _features_head), *entries).to_pylist()


def encode_records(table: pa.Table) -> Iterator[memoryview]:
    """The same tf.Examples as the bytes of a TFRecord file, in portions.

    A record is its size (8 bytes), a checksum of that, the example, and a checksum of the example.
    """
    for rows in _slices(table):
        entries, sizes = _encode_columns(rows)
        room = pa.scalar(bytes(_CRC_BYTES))
        records = _join(_by_size(sizes, _record_head), *entries, room)
        cuts = _offsets(records) - _offsets(records)[0]
        begins, ends = cuts[:-1] + _LENGTH_BYTES, cuts[1:] - _CRC_BYTES
        data = records.buffers()[2].slice(int(_offsets(records)[0]), int(cuts[-1])).to_pybytes()
        crc = google_crc32c.value
        # The one loop over rows: a checksum is a call of a C function, and NumPy would need one step per byte.
        crcs = [crc(data[begin:end]) for begin, end in zip(begins.tolist(), ends.tolist())]
        masked = _masked(np.array(crcs, np.uint32)).astype("<u4").view(np.uint8).reshape(-1, _CRC_BYTES)
        out = np.frombuffer(data, np.uint8).copy()
        out[ends[:, None] + np.arange(_CRC_BYTES)] = masked
        yield out.data


def write_examples(table: pa.Table, path: str, partial: str) -> None:
    """Writes a file of examples, whole or not at all: a worker that is tried again leaves the same file.

    Args:
      table: columns of the examples.
      path: where the file appears.
      partial: folder on the same file system for files that are not whole.
    """
    part = os.path.join(partial, uuid.uuid4().hex)
    with create(part) as file:
        for records in encode_records(table):
            file.write(records)
    fileio.rename(part, path, overwrite=True)


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), _ROWS):
        yield table.slice(start, _ROWS)


def _encode_columns(rows: pa.Table) -> tuple[list[pa.Array], np.ndarray]:
    """Per column, in the order of their names, the entry of the feature in each row; and the bytes of each row."""
    entries = [_encode_column(name, _one_chunk(rows.column(name))) for name in sorted(rows.column_names)]
    return entries, sum((np.diff(_offsets(e)).astype(np.int64) for e in entries), np.zeros(len(rows), np.int64))


def _encode_column(name: str, column: pa.Array) -> pa.Array:
    """The entry of the feature in each row, empty where the value is missing."""
    if column.null_count:
        # Only what is there is encoded; the others are cuts without bytes between.
        valid = np.asarray(column.is_valid())
        entries = _encode_column(name, column.filter(pa.array(valid)))
        ends = _offsets(entries)
        return _binary(ends[np.concatenate([[0], np.cumsum(valid)])], entries.buffers()[2])
    if pa.types.is_list(column.type):
        # The elements of a row lie one after the other: rows are a coarser cut of the same bytes.
        values = column.flatten().cast(pa.binary())
        elements = _join(_by_size(np.asarray(pc.binary_length(values)), lambda n: _VALUES + _varint(n)), values)
        cuts = _offsets(elements)[np.concatenate([[0], np.cumsum(np.asarray(pc.list_value_length(column)))])]
        return _with_head(_binary(cuts, elements.buffers()[2]), lambda n: _head(name, _BYTES, n))
    if pa.types.is_string(column.type):
        return _with_head(
            column.cast(pa.binary()),
            lambda n: _head(name, _BYTES, len(_VALUES + _varint(n)) + n) + _VALUES + _varint(n),
        )
    if pa.types.is_floating(column.type):
        floats = column.to_numpy(zero_copy_only=False).astype("<f4")
        return _fixed(_head(name, _FLOATS, 2 + 4) + _VALUES + _varint(4), floats.view(np.uint8).reshape(-1, 4))

    def integer_head(n: int) -> bytes:
        return _head(name, _INTEGERS, 2 + n) + _VALUES + _varint(n)

    numbers = column.to_numpy(zero_copy_only=False).astype(np.int64)
    lowest, highest = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    if highest - lowest < _FEW:
        known = [_varint(value % (1 << 64)) for value in range(lowest, highest + 1)]
        return pa.array([integer_head(len(v)) + v for v in known], pa.binary()).take(pa.array(numbers - lowest))
    bytes_, sizes = _varints(numbers)
    if (sizes == sizes[0]).all():
        return _fixed(integer_head(int(sizes[0])), bytes_[:, : sizes[0]])
    written = bytes_[np.arange(bytes_.shape[1]) < sizes[:, None]]
    return _with_head(_binary(np.concatenate([[0], np.cumsum(sizes)]), pa.py_buffer(written)), integer_head)


def _head(name: str, kind: bytes, size: int) -> bytes:
    """What stands before the `size` bytes of values in the entry of a feature."""
    values = kind + _varint(size)
    key = _KEY + _varint(len(name.encode())) + name.encode()
    before = key + _FEATURE_VALUE + _varint(len(values) + size) + values
    return _FEATURE + _varint(len(before) + size) + before


def _features_head(size: int) -> bytes:
    """What stands before the `size` bytes of entries of an example."""
    return _FEATURES + _varint(size)


def _record_head(size: int) -> bytes:
    """What stands before the `size` bytes of entries of an example in a TFRecord file."""
    head = _features_head(size)
    length = struct.pack("<Q", len(head) + size)
    crc = _masked(np.array([google_crc32c.value(length)], np.uint32))
    return length + crc.astype("<u4").tobytes() + head


def _masked(crc: np.ndarray) -> np.ndarray:
    """The form in which TFRecord files hold a CRC-32C: rotated, and a constant added, as uint32."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def _by_size(sizes: np.ndarray, head: Callable[[int], bytes]) -> pa.Array:
    """A head that depends on a size, per row."""
    there = np.flatnonzero(np.bincount(sizes)) if len(sizes) else np.array([], np.int64)
    place = np.zeros(int(sizes.max(initial=0)) + 1, np.int64)
    place[there] = np.arange(len(there))
    return pa.array([head(int(n)) for n in there], pa.binary()).take(pa.array(place[sizes]))


def _with_head(values: pa.Array, head: Callable[[int], bytes]) -> pa.Array:
    return _join(_by_size(np.asarray(pc.binary_length(values)), head), values)


def _fixed(head: bytes, values: np.ndarray) -> pa.Array:
    """Entries of one size: uint8 [rows, bytes] values behind one head."""
    size = len(head) + values.shape[1]
    out = np.empty((len(values), size), np.uint8)
    out[:, : len(head)] = np.frombuffer(head, np.uint8)
    out[:, len(head) :] = values
    return _binary(np.arange(len(values) + 1) * size, pa.py_buffer(out))


def _join(*columns: pa.Array | pa.Scalar) -> pa.Array:
    """Joins the bytes of each row."""
    return pc.binary_join_element_wise(*columns, pa.scalar(b""))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def _offsets(column: pa.Array) -> np.ndarray:
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _binary(offsets: np.ndarray, values: pa.Buffer | None) -> pa.Array:
    cuts = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, cuts, values or pa.py_buffer(b"")])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 as varints: seven bits a byte, the lowest first, the high bit on all bytes but the last.

    Returns:
      uint8 [n, 10], and how many of the bytes each number takes.
    """
    unsigned = numbers.view(np.uint64)
    sizes = np.ones(len(numbers), np.int64)
    for bits in range(7, 64, 7):
        sizes += unsigned >> np.uint64(bits) > 0
    width = int(sizes.max(initial=1))
    bytes_ = np.empty((len(numbers), width), np.uint8)
    for place in range(width):
        seven = (unsigned >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
        bytes_[:, place] = seven | np.where(place < sizes - 1, np.uint8(0x80), np.uint8(0))
    return bytes_, sizes
