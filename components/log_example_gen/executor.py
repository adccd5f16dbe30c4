"""Executor of LogExampleGen: joins the days of the window that are not joined yet, and makes examples of them all."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from absl import logging
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from pydantic import TypeAdapter
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from components.log_example_gen.attribution import Rules, rules
from components.log_example_gen.buckets import bucket_count, create
from components.log_example_gen.config import AttributionConfig, JoinConfig, LogsConfig, SamplingConfig, Window
from components.log_example_gen.days import (
    STOPPED_DIR,
    DayInputs,
    JoinedDays,
    day_inputs,
    drop_older,
    file_key,
    link,
    ranges,
)
from components.log_example_gen.forgotten import Forgotten
from components.log_example_gen.joining import Form, JoinLogs
from components.log_example_gen.page import PAGE_FILE, page
from components.log_example_gen.parsing import REJECTED_SCHEMA, LogSpec, log_specs
from components.log_example_gen.report import (
    SPLITS,
    Counts,
    ReconciliationError,
    check_columns,
    check_examples,
    check_rejected,
    merge,
    reconciliation,
    summary,
)
from components.log_example_gen.window import LogFile, folders_of, input_files
from components.log_example_gen.workers import deaths_raised
from models.features import Feature
from models.section import UserError

OTHER_DAYS = "other days"
"""Stands for a day in the counts of rows that belong to days outside of the window."""

MOST_THREADS = 4
"""Of a worker by default: beyond these they wait for Python's lock more than they work."""

REPORT_FILE = "report.json"
REJECTED_DIR = "rejected"


_PAYLOAD_FORMATS: dict[Form, Any] = {
    "tfrecord": example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE,
    "parquet": example_gen_pb2.PayloadFormat.FORMAT_PARQUET,
}


class JoinOptions(PipelineOptions):
    """What changes how a join runs and not what comes of it: flags of Beam are no part of a component's cache key."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--join_memory_gib", type=float, default=JoinConfig().memory_gib)
        parser.add_argument("--join_threads", type=int, default=0)
        parser.add_argument("--keep_joined_days", type=int, default=0)

    @staticmethod
    def flags(config: JoinConfig) -> list[str]:
        """The flags that a configuration stands for."""
        return [
            f"--join_memory_gib={config.memory_gib}",
            f"--join_threads={config.threads or 0}",
            f"--keep_joined_days={config.keep_days or 0}",
        ]


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads the logs of a window of days and writes the examples and the report.

    Execution properties: those of LogExampleGenSpec, and 'form' (see `joining.Form`), tfrecord where it is left out.
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
        sampling = SamplingConfig.from_json(exec_properties["sampling"])
        features = TypeAdapter(tuple[Feature, ...]).validate_json(exec_properties["features"])
        window = window_of(exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        report_uri = artifact_utils.get_single_instance(output_dict["report"]).uri
        specs = log_specs(logs, features)
        joined_uri = exec_properties["joined_uri"]
        form: Form = exec_properties.get("form", "tfrecord")

        files = input_files(logs, attribution, window)
        forgotten = Forgotten.read(joined_uri)
        days = day_inputs(logs, attribution, sampling, window, files, forgotten.digest)
        decided_by = _configuration(logs, attribution, sampling, specs, exec_properties["join_fingerprint"])
        decided_by.append(form)
        store = JoinedDays(joined_uri, decided_by)
        stale = [inputs.day for inputs in days if store.find(inputs) is None]
        for first, last in ranges(stale):
            of_range = [inputs for inputs in days if first <= inputs.day <= last]
            folder = os.path.join(report_uri, "partial", first.isoformat())
            of_days = rules(logs, attribution, [inputs.day for inputs in of_range], of_range[-1].data_end_ms, sampling)
            self._join(of_range, of_days, specs, forgotten, store, folder, form)
        if stale:
            fileio.rmtree(os.path.join(report_uri, "partial"))

        joined = {inputs.day: _found(store.find(inputs), inputs.day) for inputs in days}
        read = {file: _found(store.find_file(file), file.relative) for file in files}
        counts = merge([found["counts"] for found in (*joined.values(), *read.values())])
        check_columns(counts, specs, features)
        report = reconciliation(_with_other_days(counts, specs), specs, window)
        stopped = os.path.join(joined_uri, STOPPED_DIR)
        if fileio.exists(stopped):
            fileio.rmtree(stopped)
        try:
            check_rejected(counts, logs)
        except UserError as error:
            # TFX removes what a component that failed has written to its outputs.
            _write_report(report, read, page(report, logs, attribution, stopped=str(error)), stopped)
            raise UserError(
                f"{error}\nAll rejected rows are in the report: {os.path.join(stopped, PAGE_FILE)}"
            ) from None
        _write_report(report, read, page(report, logs, attribution), report_uri)
        logging.info("Reconciliation of %s to %s:\n%s", window.first_day, window.last_day, summary(report))
        check_examples(report)

        for split in SPLITS:
            of_split = [day for day in window.days if (day >= window.first_eval_day) == (split == "eval")]
            _link_examples([joined[day] for day in of_split], os.path.join(examples.uri, f"Split-{split}"), form)
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(examples, _PAYLOAD_FORMATS[form])
        for name in ("first_day", "first_eval_day", "last_day"):
            examples.set_string_custom_property(name, exec_properties[name])
        examples.set_string_custom_property("joined_days", ",".join(day.isoformat() for day in stale))

        store.drop_superseded(days)
        options = self._make_beam_pipeline().options.view_as(JoinOptions)
        if options.keep_joined_days:
            first_day = window.last_day - timedelta(days=options.keep_joined_days)
            first_folder, _ = folders_of(logs, attribution, first_day, first_day)
            removed = drop_older(joined_uri, first_day, first_folder)
            logging.info("Removed %d joined days before %s", len(removed), first_day)

    def _join(
        self,
        days: Sequence[DayInputs],
        of_days: Rules,
        specs: Mapping[str, LogSpec],
        forgotten: Forgotten,
        store: JoinedDays,
        folder: str,
        form: Form,
    ) -> None:
        """Joins days without a gap and puts them into the store."""
        files = {file_key(f): f for inputs in days for f in inputs.files}
        fileio.makedirs(os.path.join(folder, "partial"))
        counts_file = os.path.join(folder, "counts.json")
        last = days[-1]
        with deaths_raised(), self._make_beam_pipeline() as pipeline:
            threads = threads_of(pipeline.options)
            memory = round(pipeline.options.view_as(JoinOptions).join_memory_gib * 2**30) // threads
            transform = JoinLogs(
                specs=specs,
                rules=of_days,
                sampled=[inputs.day for inputs in days if inputs.sampled],
                folder=folder,
                buckets=bucket_count(files.values(), specs, memory, threads),
                memory=memory,
                forgotten=forgotten,
                form=form,
                threads=threads,
            )
            _ = (
                pipeline
                | "Files" >> beam.Create(list(files.values()))
                | "JoinLogs" >> transform
                | "WriteCounts" >> beam.Map(_write_json, counts_file)
            )
        with fileio.open(counts_file) as file:
            counts = json.loads(file.read())
        # Raised here and not in the workers, whose exceptions reach the user wrapped in those of the runner.
        if problems := counts.pop("problems"):
            raise UserError("\n".join(sorted(problems)))

        read = counts.pop("files")
        shards = counts.pop("shards", {})
        # Every row that was read has an outcome; most of those of other days are counted here and nowhere else.
        window = Window(
            first_day=days[0].day, first_eval_day=days[0].day, last_day=last.day, data_end_ms=last.data_end_ms
        )
        reconciliation(merge([counts, *(of_file["counts"] for of_file in read.values())]), specs, window)
        for key, file in files.items():
            of_file = read[key]
            store.put_file(file, os.path.join(folder, "files", key), of_file["rejected"], of_file["counts"])
        for inputs in days:
            day = inputs.day.isoformat()
            store.put(inputs, os.path.join(folder, "days", day), shards.get(day, {}), _of_day(counts, day))
        fileio.rmtree(folder)


def threads_of(options: PipelineOptions) -> int:
    """Threads of a worker: one per core in the process itself, and one where the runner has workers of its own."""
    runner = options.view_as(StandardOptions).runner or ""
    inside = runner.endswith("FnApiRunner") and options.view_as(DirectOptions).direct_running_mode == "in_memory"
    default = min(len(os.sched_getaffinity(0)), MOST_THREADS) if inside else 1
    return options.view_as(JoinOptions).join_threads or default


def window_of(properties: Mapping[str, str]) -> Window:
    """The window from the component's parameters, each of which is text."""
    return Window(
        first_day=_day(properties, "first_day"),
        first_eval_day=_day(properties, "first_eval_day"),
        last_day=_day(properties, "last_day"),
        data_end_ms=int(properties["data_end_ms"]),
    )


def _configuration(
    logs: LogsConfig, attribution: AttributionConfig, sampling: SamplingConfig, specs: Mapping[str, LogSpec], code: str
) -> list[str]:
    """All that decides on the examples of a day but the data."""
    of_logs = {k: v for k, v in json.loads(logs.canonical_json()).items() if k != "max_rejected"}
    sections = [json.dumps(of_logs, sort_keys=True), attribution.canonical_json(), sampling.canonical_json()]
    return [*sections, repr(specs), code]


def _found(manifest: dict[str, Any] | None, name: object) -> dict[str, Any]:
    if manifest is None:
        raise UserError(f"what was joined of {name} has been removed meanwhile by another run: run again")
    return manifest


def _of_day(counts: Counts, day: str) -> Counts:
    """The part of counts that belongs to a day."""
    return {
        "outcomes": {log: {day: days[day]} for log, days in counts["outcomes"].items() if day in days},
        "delays": {event: {day: days[day]} for event, days in counts["delays"].items() if day in days},
        "examples": {day: counts["examples"][day]} if day in counts["examples"] else {},
    }


def _with_other_days(counts: Counts, specs: Mapping[str, LogSpec]) -> Counts:
    """Adds the rows of the window's files that belong to other days.

    Each of them has its outcome with its day, if that was joined: here they are those that are in no day of the window.
    """
    others = {}
    for log in specs:
        read = counts["logs"][log]
        rejected = sum(column["rows"] for columns in read["rejected"].values() for column in columns.values())
        of_days = sum(
            rows
            for outcomes in counts["outcomes"].get(log, {}).values()
            for reasons in outcomes.values()
            for rows in reasons.values()
        )
        rest = read["read"] - rejected - of_days
        if rest < 0:
            raise ReconciliationError(
                f"{log}: the days of the window have {of_days} rows, but its files only {read['read'] - rejected}"
            )
        others[log] = {OTHER_DAYS: {"outside_window": {"other_days": rest}} if rest else {}}
    return merge([counts, {"outcomes": others}])


def _link_examples(days: Sequence[Mapping[str, Any]], folder: str, form: Form) -> None:
    """Gives a split the examples of its days.

    Files of all days that begin at the same place of the hash come one after the other: who reads a part of a split
    reads of all its days.
    """
    fileio.makedirs(folder)
    shards = sorted((name, day["day"], os.path.join(day["uri"], name)) for day in days for name in day["shards"])
    for number, (_, _, source) in enumerate(shards):
        name = f"data_{form}-{number:05d}-of-{len(shards):05d}"
        link(source, os.path.join(folder, name if form == "tfrecord" else f"{name}.{form}"))


def _write_report(report: Mapping[str, Any], files: Mapping[LogFile, Mapping[str, Any]], html: str, uri: str) -> None:
    """Writes the report, its page and the rejected rows of the files into a folder."""
    _link_rejected(files, os.path.join(uri, REJECTED_DIR))
    _write_json(report, os.path.join(uri, REPORT_FILE))
    with fileio.open(os.path.join(uri, PAGE_FILE), "w") as file:
        file.write(html)


def _link_rejected(files: Mapping[LogFile, Mapping[str, Any]], folder: str) -> None:
    """Gives a folder the rejected rows, one data set of REJECTED_SCHEMA; without any, a file that has none."""
    fileio.makedirs(folder)
    if not any(read["rejected"] for read in files.values()):
        with create(os.path.join(folder, "none.parquet")) as sink:
            pq.write_table(REJECTED_SCHEMA.empty_table(), sink)
    for number, (file, read) in enumerate(files.items()):
        for part, name in enumerate(read["rejected"]):
            link(os.path.join(read["uri"], name), os.path.join(folder, f"{file.log}-{number:05d}-{part:05d}.parquet"))


def _write_json(content: Any, path: str) -> None:
    with fileio.open(path, "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False))


def _day(properties: Mapping[str, str], name: str) -> date:
    try:
        return date.fromisoformat(properties[name])
    except ValueError:
        raise UserError(f"{name}: expected a day such as 2026-01-31, got '{properties[name]}'") from None
