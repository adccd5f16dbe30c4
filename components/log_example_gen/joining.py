"""The Beam transform that reads log files, joins their rows bucket by bucket and writes the examples of each day."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.io import fileio

from components.log_example_gen.attribution import Rules
from components.log_example_gen.buckets import BucketWriter, Piece, create, parts_of, position, read_bucket
from components.log_example_gen.days import file_key
from components.log_example_gen.encoding import write_examples
from components.log_example_gen.forgotten import NOBODY, Forgotten
from components.log_example_gen.join import Joined, join
from components.log_example_gen.parquet import write_parquet
from components.log_example_gen.parsing import LogSpec, parse_file
from components.log_example_gen.reading import UnreadableFile, row_group_bytes
from components.log_example_gen.report import Counts, count_joined, count_parsed, merge
from components.log_example_gen.threads import ThreadedDoFn
from components.log_example_gen.window import LogFile

PART_BYTES = 64 << 20
"""Bytes of a Parquet file that one task reads, in whole row groups."""

Form = Literal["tfrecord", "parquet"]
"""tf.Examples in TFRecord files, or the same columns in Parquet files."""

_WRITERS = {"tfrecord": write_examples, "parquet": write_parquet}

_Part = tuple[LogFile, range | None]
"""A file, and the row groups of it to read; all of it with None."""


class JoinLogs(beam.PTransform):
    """Log files -> what became of all their rows; the examples of each day and the rejected rows go to files.

    The one element that comes out holds the counts of `count_joined`, under 'files' those of `count_parsed` and the
    names of the files of rejected rows with their rows, per file, under 'shards' the names of the files of examples
    with their rows, per day, and under 'problems' what is wrong with files that cannot be read.

    Args:
      specs: the logs.
      rules: days, attribution and sampling.
      sampled: the days of which a sample is written.
      folder: gets `days/DAY/` with the examples of a day in files named by the place of their hash, `files/KEY/` with
        the rejected rows of a file, and `partial/` with what is of use only while this runs.
      buckets: number of buckets. It does not change the examples.
      memory: bytes that a task, which reads a part of a file or joins a bucket, may take for rows: a bucket that needs
        more is cut further.
      forgotten: users whose rows are left out.
      form: what the examples are written as.
      threads: tasks of a worker at once.
    """

    def __init__(
        self,
        specs: Mapping[str, LogSpec],
        rules: Rules,
        sampled: Collection[date],
        folder: str,
        buckets: int,
        memory: int,
        forgotten: Forgotten = NOBODY,
        form: Form = "tfrecord",
        threads: int = 1,
    ):
        super().__init__()
        self._specs, self._rules, self._sampled, self._folder = dict(specs), rules, frozenset(sampled), folder
        self._buckets, self._memory, self._forgotten, self._form = buckets, memory, forgotten, form
        self._threads = threads

    def expand(self, files: beam.PCollection[LogFile]) -> beam.PCollection[dict[str, Any]]:
        read = (
            files
            | "Cut" >> beam.FlatMap(_parts, self._specs)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(
                _ReadPart(self._specs, self._folder, self._buckets, self._memory, self._threads)
            ).with_outputs("counts", main="pieces")
        )
        joined = (
            read.pieces
            | "ByBucket" >> beam.GroupByKey()
            | "AsList" >> beam.MapTuple(lambda bucket, pieces: (bucket, list(pieces)))
            | "JoinBucket"
            >> beam.ParDo(
                _JoinBucket(
                    self._specs,
                    self._rules,
                    self._sampled,
                    self._folder,
                    self._buckets,
                    self._memory,
                    self._forgotten,
                    self._form,
                    self._threads,
                )
            )
        )
        return (read.counts, joined) | "AllCounts" >> beam.Flatten() | "AddUp" >> beam.CombineGlobally(merge)


def _parts(file: LogFile, specs: Mapping[str, LogSpec]) -> Iterator[_Part]:
    """Cuts a large Parquet file by row groups. A text file is read in one piece, block by block: the number of a line
    is known only to who has read the lines before it."""
    large = specs[file.log].form == "parquet" and file.size > PART_BYTES
    sizes = row_group_bytes(file.path) if large else []
    if len(sizes) < 2:
        yield file, None
        return
    start = size = 0
    for group, more in enumerate(sizes, start=1):
        size += more
        if size >= PART_BYTES or group == len(sizes):
            yield file, range(start, group)
            start, size = group, 0


class _ReadPart(ThreadedDoFn):
    def __init__(self, specs: Mapping[str, LogSpec], folder: str, buckets: int, memory: int, threads: int):
        super().__init__(threads)
        self._specs, self._folder, self._buckets, self._memory = specs, folder, buckets, memory

    def work(self, part: _Part) -> Iterator[Any]:
        file, groups = part
        counts: dict[str, Any] = {}
        folder = os.path.join(self._folder, "files", file_key(file))
        name = f"{uuid.uuid4().hex}.parquet"
        rejected = 0
        rows = BucketWriter(os.path.join(self._folder, "partial"), file.log, self._buckets, self._memory)
        problems: dict[str, int] = {}
        with contextlib.ExitStack() as opened:
            writer: pq.ParquetWriter | None = None
            try:
                for parsed in parse_file(file, self._specs[file.log], groups):
                    counts = merge([counts, count_parsed(parsed, file)])
                    yield from rows.add(parsed.rows)
                    if len(parsed.rejected):
                        if writer is None:
                            fileio.makedirs(folder)
                            sink = opened.enter_context(create(os.path.join(folder, name)))
                            writer = opened.enter_context(pq.ParquetWriter(sink, parsed.rejected.schema))
                        writer.write_table(parsed.rejected)
                        rejected += len(parsed.rejected)
                yield from rows.flush()
            except UnreadableFile as error:
                problems[str(error)] = 1
        of_file = {"counts": counts, "rejected": {name: rejected} if rejected else {}}
        yield beam.pvalue.TaggedOutput("counts", {"files": {file_key(file): of_file}, "problems": problems})


class _JoinBucket(ThreadedDoFn):
    def __init__(
        self,
        specs: Mapping[str, LogSpec],
        rules: Rules,
        sampled: frozenset[date],
        folder: str,
        buckets: int,
        memory: int,
        forgotten: Forgotten,
        form: Form,
        threads: int,
    ):
        super().__init__(threads)
        self._specs, self._rules, self._sampled, self._folder = specs, rules, sampled, folder
        self._buckets, self._memory, self._forgotten, self._form = buckets, memory, forgotten, form

    def work(self, element: tuple[int, list[Piece]]) -> Iterator[dict[str, Any]]:
        bucket, pieces = element
        parts = parts_of(pieces, self._memory)
        for part in range(parts):
            yield self._join(pieces, bucket * parts + part, self._buckets * parts)
            # The allocator would keep what it has for the next bucket, beside what the next task of another kind takes.
            pa.default_memory_pool().release_unused()

    def _join(self, pieces: list[Piece], bucket: int, buckets: int) -> dict[str, Any]:
        tables, gone = self._forgotten.split(read_bucket(pieces, self._specs, bucket, buckets))
        joined = join(tables, self._specs, self._rules)
        name = f"examples-{position(bucket, buckets)}"
        shards: dict[str, dict[str, int]] = {}
        for day in self._rules.days:
            table = joined.training[day] if day in self._sampled else joined.examples[day]
            if len(table):
                folder = os.path.join(self._folder, "days", day.isoformat())
                fileio.makedirs(folder)
                _WRITERS[self._form](table, os.path.join(folder, name), os.path.join(self._folder, "partial"))
                shards[day.isoformat()] = {name: len(table)}
        counts = [self._count(joined), {"shards": shards}]
        if any(len(rows) for rows in gone.values()):
            # They count on the days on which they would, so that it does not matter when a user was forgotten.
            counts.append(_forgotten_counts(self._count(join(gone, self._specs, self._rules))))
        return merge(counts)

    def _count(self, joined: Joined) -> Counts:
        return count_joined(joined, self._specs, self._sampled)


def _forgotten_counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    outcomes = {
        log: {
            day: {("forgotten" if outcome == "joined" else outcome): reasons for outcome, reasons in found.items()}
            for day, found in days.items()
        }
        for log, days in counts["outcomes"].items()
    }
    return {**{key: counts[key] for key in counts if key != "examples"}, "outcomes": outcomes}
