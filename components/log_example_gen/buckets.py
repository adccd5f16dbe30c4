"""Buckets of rows on disk, so that a join holds one bucket in memory and not a day.

A bucket is a range of the hash of the key. A task that reads logs gathers rows, orders them by bucket and writes them
to one Arrow IPC file with a record batch per bucket; a bucket is then read from its batches in all files. What is
written under a new name for each attempt is read only if the attempt that wrote it counts: the runner passes on the
pieces of one attempt, and a file that a killed one left is in no piece.
"""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from components.log_example_gen.config import LogFormat
from components.log_example_gen.parsing import HASH, LogSpec
from components.log_example_gen.window import LogFile

ROW_BYTES: dict[LogFormat, float] = {"parquet": 8.0, "csv": 2.0, "jsonl": 1.0}
"""Bytes of rows in memory per byte of file, about: Parquet packs and knows dictionaries, JSON repeats names."""

GZIP = 6.0
"""Bytes of text per byte of its gzip, about."""

JOIN_BYTES = 5.0
"""Most bytes in memory per byte of a bucket's rows while it is read, joined and encoded."""

_WORTH_SHARING = 256 << 20
"""A bucket that is joined in so many bytes is not cut for several threads: it takes less than half a second."""

SPILL_SHARE = 1 / 16
"""Share of the memory that a task gathers in rows before it writes them; ordering and writing take twice as much."""

Piece = tuple[str, str, int, int]
"""Rows of a log for a bucket: name of the log, path of the file, number of the record batch in it, bytes in memory."""


def bucket_count(files: Iterable[LogFile], specs: Mapping[str, LogSpec], memory: int, at_once: int = 1) -> int:
    """Number of buckets with which one is likely to be joined in `memory` bytes; others are cut further.

    Buckets that are joined at once are made as many as keep all busy, where there is enough to do.
    """
    size = sum(f.size * ROW_BYTES[specs[f.log].form] * (GZIP if f.path.endswith(".gz") else 1) for f in files)
    turns = math.ceil(size * JOIN_BYTES / memory / at_once)
    return at_once * turns if size * JOIN_BYTES > min(memory, _WORTH_SHARING) else 1


def bucket_of(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """Bucket of each hash: equal ranges, so that buckets in order are rows in the order of their hash."""
    return ((hashes >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)


class BucketWriter:
    """Gathers the rows of one log and writes them by bucket.

    Args:
      folder: where the files go, on any file system that Beam knows.
      log: name of the log.
      buckets: number of buckets.
      memory: bytes that the task may take.
    """

    def __init__(self, folder: str, log: str, buckets: int, memory: int):
        self._folder, self._log, self._buckets = folder, log, buckets
        self._limit = int(memory * SPILL_SHARE)
        self._gathered: list[pa.Table] = []
        self._bytes = 0

    def add(self, rows: pa.Table) -> Iterator[tuple[int, Piece]]:
        """Takes rows; gives the pieces, by bucket, of what it had to write."""
        self._gathered.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= self._limit:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[int, Piece]]:
        """Writes what is left."""
        gathered, self._gathered, self._bytes = [r for r in self._gathered if len(r)], [], 0
        if not gathered:
            return
        rows = pa.concat_tables(gathered).combine_chunks()
        del gathered
        bucket = bucket_of(rows.column(HASH).to_numpy(), self._buckets)
        rows = rows.take(pa.array(np.argsort(bucket, kind="stable"))).combine_chunks()
        numbers, counts = np.unique(bucket, return_counts=True)
        path = os.path.join(self._folder, f"{self._log}-{uuid.uuid4().hex}.arrow")
        pieces: list[tuple[int, Piece]] = []
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with create(path) as sink, pa.ipc.new_file(sink, rows.schema, options=options) as file:
            start = 0
            for number, count in zip(numbers.tolist(), counts.tolist()):
                piece = rows.slice(start, count)
                start += count
                file.write_table(piece, max_chunksize=count)
                pieces.append((number, (self._log, path, len(pieces), piece.nbytes)))
        yield from pieces


def parts_of(pieces: Iterable[Piece], memory: int) -> int:
    """Into how many parts a bucket is to be cut so that each is joined in `memory` bytes."""
    return max(1, math.ceil(sum(size for *_, size in pieces) * JOIN_BYTES / memory))


def read_bucket(
    pieces: Iterable[Piece], specs: Mapping[str, LogSpec], bucket: int, buckets: int
) -> dict[str, pa.Table]:
    """Rows of a bucket, per log.

    Args:
      pieces: pieces with all rows of the bucket, and of others too if they are of a coarser cut.
      specs: the logs.
      bucket: number of the bucket.
      buckets: number of buckets of the cut.
    """
    tables: dict[str, list[pa.Table]] = {log: [spec.schema.empty_table()] for log, spec in specs.items()}
    # Whatever order the runner gives them in, a bucket is read in one.
    for log, path, number, _ in sorted(pieces):
        with _open(path) as source:
            rows = pa.Table.from_batches([pa.ipc.open_file(source).get_batch(number)])
        inside = bucket_of(rows.column(HASH).to_numpy(), buckets) == bucket
        tables[log].append(rows if inside.all() else rows.filter(pa.array(inside)))
    return {log: pa.concat_tables(parts) for log, parts in tables.items()}


def position(bucket: int, buckets: int) -> str:
    """Where the hashes of a bucket begin, as text that orders the buckets of cuts of any number."""
    return f"{(bucket << 64) // buckets:016x}"


@contextlib.contextmanager
def create(path: str) -> Iterator[Any]:
    """A file to write, on any file system that Beam knows."""
    with pa.OSFile(path, "wb") if "://" not in path else contextlib.closing(FileSystems.create(path)) as sink:
        yield sink


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    with pa.OSFile(path) if "://" not in path else contextlib.closing(FileSystems.open(path)) as source:
        yield source
