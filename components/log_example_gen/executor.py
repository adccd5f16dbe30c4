"""Executor of LogExampleGen: the Beam pipeline from log files to tf.Examples."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from apache_beam.io.filesystems import FileSystems
from pydantic import TypeAdapter
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from components.log_example_gen.attribution import Rules, rules
from components.log_example_gen.config import AttributionConfig, LogsConfig, Window
from components.log_example_gen.encoding import write_examples
from components.log_example_gen.join import SPLITS, join
from components.log_example_gen.parsing import HASH, LogSpec, log_specs, parse_file
from components.log_example_gen.reading import UnreadableFile
from components.log_example_gen.report import (
    check_columns,
    check_examples,
    check_rejected,
    count_joined,
    count_parsed,
    merge,
    reconciliation,
    summary,
)
from components.log_example_gen.window import LogFile, input_files, total_bytes
from models.features import Feature
from models.section import UserError

REPORT_FILE = "report.json"
REJECTED_DIR = "rejected"

BUCKET_BYTES = 16 << 20
"""Bytes of log files per bucket. A bucket is joined in memory and written as one shard of each split."""

_Piece = tuple[int, tuple[str, bytes]]
"""Rows of a log for a bucket: number of the bucket, name of the log, Arrow IPC stream."""


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads the logs of a window of days and writes the examples and the report.

    Execution properties: those of LogExampleGenSpec.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        del input_dict
        logs = LogsConfig.from_json(exec_properties["logs"])
        attribution = AttributionConfig.from_json(exec_properties["attribution"])
        features = TypeAdapter(tuple[Feature, ...]).validate_json(exec_properties["features"])
        window = window_of(exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        report_uri = artifact_utils.get_single_instance(output_dict["report"]).uri

        specs = log_specs(logs, features)
        files = input_files(logs, attribution, window)
        partial = os.path.join(report_uri, "partial")
        split_uris = {split: os.path.join(examples.uri, f"Split-{split}") for split in SPLITS}
        for directory in (partial, os.path.join(report_uri, REJECTED_DIR), *split_uris.values()):
            fileio.makedirs(directory)
        counts_file = os.path.join(partial, "counts.json")
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(list(enumerate(files)))
                | "JoinLogs"
                >> JoinLogs(
                    specs=specs,
                    rules=rules(logs, attribution, window),
                    buckets=max(1, math.ceil(total_bytes(files) / BUCKET_BYTES)),
                    split_uris=split_uris,
                    rejected_uri=os.path.join(report_uri, REJECTED_DIR),
                    partial_uri=partial,
                )
                | "WriteCounts" >> beam.Map(_write_json, counts_file)
            )
        with fileio.open(counts_file) as file:
            counts = json.loads(file.read())
        fileio.rmtree(partial)

        # Raised here and not in the workers, whose exceptions reach the user wrapped in those of the runner.
        if problems := counts.get("problems"):
            raise UserError("\n".join(sorted(problems)))
        check_columns(counts, specs, features)
        check_rejected(counts, logs)
        report = reconciliation(counts, specs, window)
        _write_json(report, os.path.join(report_uri, REPORT_FILE))
        logging.info("Reconciliation of %s to %s:\n%s", window.first_day, window.last_day, summary(report))
        check_examples(report)

        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
        for name in ("first_day", "first_eval_day", "last_day"):
            examples.set_string_custom_property(name, exec_properties[name])


def window_of(properties: Mapping[str, str]) -> Window:
    """The window from the component's parameters, each of which is text."""
    return Window(
        first_day=_day(properties, "first_day"),
        first_eval_day=_day(properties, "first_eval_day"),
        last_day=_day(properties, "last_day"),
        data_end_ms=int(properties["data_end_ms"]),
    )


class JoinLogs(beam.PTransform):
    """Numbered log files -> the counts of all their rows; examples and rejected rows go to files.

    Args:
      specs: the logs.
      rules: window and attribution.
      buckets: number of buckets, which is also that of the shards of each split. It does not change the
        examples, nor their order when the shards are read one after the other.
      split_uris: folder of the examples, per split.
      rejected_uri: folder of the rejected rows.
      partial_uri: folder for files that are being written.
    """

    def __init__(
        self,
        specs: Mapping[str, LogSpec],
        rules: Rules,
        buckets: int,
        split_uris: Mapping[str, str],
        rejected_uri: str,
        partial_uri: str,
    ):
        super().__init__()
        self._specs, self._rules, self._buckets = dict(specs), rules, buckets
        self._split_uris, self._rejected_uri, self._partial_uri = dict(split_uris), rejected_uri, partial_uri

    def expand(self, files: beam.PCollection[tuple[int, LogFile]]) -> beam.PCollection[dict[str, Any]]:
        parsed = (
            files
            | "Spread" >> beam.Reshuffle()
            | "Parse"
            >> beam.ParDo(_ParseFile(self._specs, self._buckets, self._rejected_uri)).with_outputs(
                "counts", main="pieces"
            )
        )
        # A bucket without any row still has its shard, so that the number in the files' names is true.
        every_bucket = files.pipeline | "EveryBucket" >> beam.Create([(b, ("", b"")) for b in range(self._buckets)])
        joined = (
            (parsed.pieces, every_bucket)
            | "AllPieces" >> beam.Flatten()
            | "ByBucket" >> beam.GroupByKey()
            | "JoinBucket"
            >> beam.ParDo(_JoinBucket(self._specs, self._rules, self._buckets, self._split_uris, self._partial_uri))
        )
        return (parsed.counts, joined) | "AllCounts" >> beam.Flatten() | "AddUp" >> beam.CombineGlobally(merge)


class _ParseFile(beam.DoFn):
    def __init__(self, specs: Mapping[str, LogSpec], buckets: int, rejected_uri: str):
        self._specs, self._buckets, self._rejected_uri = specs, buckets, rejected_uri

    def process(self, numbered: tuple[int, LogFile]) -> Iterator[Any]:
        number, file = numbered
        counts: dict[str, Any] = {}
        writer: pq.ParquetWriter | None = None
        rejected_path = os.path.join(self._rejected_uri, f"{file.log}-{number:05d}.parquet")
        try:
            for parsed in parse_file(file, self._specs[file.log]):
                counts = merge([counts, count_parsed(parsed, file)])
                yield from _pieces(file.log, parsed.rows, self._buckets)
                if len(parsed.rejected):
                    if writer is None:
                        sink = FileSystems.create(rejected_path)
                        writer = pq.ParquetWriter(sink, parsed.rejected.schema)
                    writer.write_table(parsed.rejected)
        except UnreadableFile as error:
            counts = merge([counts, {"problems": {str(error): 1}}])
        if writer is not None:
            writer.close()
            sink.close()
        yield beam.pvalue.TaggedOutput("counts", counts)


class _JoinBucket(beam.DoFn):
    def __init__(
        self, specs: Mapping[str, LogSpec], rules: Rules, buckets: int, split_uris: Mapping[str, str], partial_uri: str
    ):
        self._specs, self._rules, self._buckets = specs, rules, buckets
        self._split_uris, self._partial_uri = split_uris, partial_uri

    def process(self, element: tuple[int, Iterable[tuple[str, bytes]]]) -> Iterator[dict[str, Any]]:
        bucket, pieces = element
        tables: dict[str, list[pa.Table]] = {log: [spec.schema.empty_table()] for log, spec in self._specs.items()}
        for log, rows in pieces:
            if rows:
                tables[log].append(pa.ipc.open_stream(rows).read_all())
        joined = join({log: pa.concat_tables(parts) for log, parts in tables.items()}, self._specs, self._rules)
        for split, table in joined.examples.items():
            write_examples(table, self._split_uris[split], self._partial_uri, bucket, self._buckets)
        yield count_joined(joined, self._specs)


def _pieces(log: str, rows: pa.Table, buckets: int) -> Iterator[_Piece]:
    """Cuts rows by bucket: ranges of the hash, so that buckets in order are rows in the order of their hash."""
    bucket = ((rows.column(HASH).to_numpy() >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
    order = np.argsort(bucket, kind="stable")
    rows = rows.take(pa.array(order))
    edges = np.searchsorted(bucket[order], np.arange(buckets + 1))
    for number in range(buckets):
        start, end = int(edges[number]), int(edges[number + 1])
        if start == end:
            continue
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows.slice(start, end - start))
        yield number, (log, sink.getvalue().to_pybytes())


def _write_json(content: Any, path: str) -> None:
    with fileio.open(path, "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False))


def _day(properties: Mapping[str, str], name: str) -> date:
    try:
        return date.fromisoformat(properties[name])
    except ValueError:
        raise UserError(f"{name}: expected a day such as 2026-01-31, got '{properties[name]}'") from None
