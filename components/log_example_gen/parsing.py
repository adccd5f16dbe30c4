"""Rows of a log as typed columns, and the rows that are rejected with the reason."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from components.log_example_gen import columns as casts
from components.log_example_gen.config import LogFormat, LogsConfig, TimeUnit
from components.log_example_gen.reading import Malformed, RawBatch, read_batches
from components.log_example_gen.window import EXPOSURES, LogFile
from models.features import Feature
from models.section import UserError

REQUEST_ID, ITEM_ID, USER_ID, EVENT_TIME = "request_id", "item_id", "user_id", "event_time"
VALUE = "value"
HASH = "hash"
"""Column with a 64-bit hash of (request_id, item_id): the bucket of a row and its place among the examples."""

REJECTED_SCHEMA = pa.schema(
    [("log", pa.string()), ("file", pa.string()), ("row", pa.int64())]
    + [(name, pa.string()) for name in ("reason", "column", "detail", "raw")]
)

Kind = Literal["id", "id_list", "number", "time"]

_TYPES = {"id": pa.string(), "id_list": pa.list_(pa.string()), "number": pa.float64(), "time": pa.int64()}


@dataclass(frozen=True)
class Column:
    """A column to read: its name among the examples, in the log, and what it should hold."""

    name: str
    source: str
    kind: Kind
    required: bool = False
    separator: str | None = None

    @property
    def type(self) -> pa.DataType:
        return _TYPES[self.kind]


@dataclass(frozen=True)
class LogSpec:
    """How to read one log."""

    log: str
    form: LogFormat
    time_unit: TimeUnit
    timezone: str
    columns: tuple[Column, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.source for c in self.columns))

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(c.name, c.type) for c in self.columns] + [(HASH, pa.uint64())])

    @property
    def has_value(self) -> bool:
        return any(c.name == VALUE for c in self.columns)


@dataclass(frozen=True)
class Parsed:
    """What came out of some rows of a file.

    Attributes:
      rows: rows of the log's schema.
      rejected: rows of REJECTED_SCHEMA.
      names: columns that the file has, in so far as they were seen.
      types: per column of the log that the batch has, its type there in words.
      missing: per column, accepted rows without a value.
      absent: the columns among them that the batch does not have at all.
    """

    rows: pa.Table
    rejected: pa.Table
    names: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


def log_specs(logs: LogsConfig, features: Sequence[Feature]) -> dict[str, LogSpec]:
    """How to read each log: the exposures first, then the events in the order of the funnel.

    Raises:
      UserError: if a feature takes a name that the examples need for something else.
    """
    keys = logs.exposures.columns
    columns = {
        REQUEST_ID: Column(REQUEST_ID, keys.request_id, "id", required=True),
        ITEM_ID: Column(ITEM_ID, keys.item_id, "id", required=True),
        USER_ID: Column(USER_ID, keys.user_id, "id", required=True),
        EVENT_TIME: Column(EVENT_TIME, keys.time, "time", required=True),
    }
    taken = {EVENT_TIME: "the time of the exposure", HASH: "internal use"}
    for event, log in logs.events.items():
        taken[event] = f"the label of event '{event}'"
        if log.columns.value is not None:
            taken[value_name(event)] = f"the value of event '{event}'"
    for feature in features:
        if feature.name in taken:
            raise UserError(f"feature '{feature.name}': expected another name, it is taken by {taken[feature.name]}")
        if feature.name in columns:
            key = columns[feature.name]
            if feature.kind != "id" or feature.source != key.source:
                raise UserError(
                    f"feature '{feature.name}': expected kind id and column '{key.source}', as in "
                    f"logs.exposures.columns, got kind {feature.kind} and column '{feature.source}'"
                )
            continue
        kind: Kind = feature.kind if feature.kind in ("id", "id_list") else "number"
        columns[feature.name] = Column(
            feature.name, feature.source, kind, separator=getattr(feature, "separator", None)
        )
    exposures = logs.exposures
    specs = {
        EXPOSURES: LogSpec(EXPOSURES, exposures.format, exposures.time_unit, logs.timezone, tuple(columns.values()))
    }
    for event, log in logs.events.items():
        names = log.columns
        event_columns = [
            Column(REQUEST_ID, names.request_id, "id", required=True),
            Column(ITEM_ID, names.item_id, "id", required=True),
            Column(EVENT_TIME, names.time, "time", required=True),
        ]
        if names.value is not None:
            event_columns.append(Column(VALUE, names.value, "number"))
        specs[event] = LogSpec(event, log.format, log.time_unit, logs.timezone, tuple(event_columns))
    return specs


def value_name(event: str) -> str:
    """Name among the examples of the value of an event."""
    return f"{event}_value"


def parse_file(file: LogFile, spec: LogSpec) -> Iterator[Parsed]:
    """Reads a file of a log; every row is among the rows or among the rejected ones.

    Raises:
      UnreadableFile: naming the file.
    """
    for batch in read_batches(file.path, spec.form, spec.sources):
        if isinstance(batch, Malformed):
            reasons: list[str] = ["malformed_row"] * len(batch.rows)
            rejected = _rejected(file, batch.rows, reasons, [None] * len(batch.rows), batch.details, batch.raw)
            yield Parsed(rows=spec.schema.empty_table(), rejected=rejected)
        else:
            yield parse_batch(batch, file, spec)


def parse_batch(batch: RawBatch, file: LogFile, spec: LogSpec) -> Parsed:
    """Casts the columns of a batch; a row is rejected for the first of its columns that does not fit."""
    n = len(batch.rows)
    arrays: dict[str, pa.Array] = {}
    reason = np.full(n, None, object)
    culprit = np.full(n, -1)
    for index, column in enumerate(spec.columns):
        array = batch.columns.get(column.source)
        if array is None:
            arrays[column.name] = pa.nulls(n, column.type)
            if column.required:
                _blame(reason, culprit, np.ones(n, bool), "missing_column", index)
            continue
        values, bad = _cast(array, column, spec)
        arrays[column.name] = values
        _blame(reason, culprit, bad, "bad_time" if column.kind == "time" else "bad_type", index)
        if column.required:
            missing = np.asarray(values.is_null()) & ~bad
            if column.kind == "id":
                missing |= np.asarray(values.fill_null("x")) == ""
            _blame(reason, culprit, missing, "missing_value", index)
    rejected = np.flatnonzero(culprit >= 0)
    for position in rejected[reason[rejected] == "missing_value"]:
        if batch.absent(position, spec.columns[culprit[position]].source):
            reason[position] = "missing_column"
    details = [_detail(batch, p, reason[p], spec.columns[culprit[p]], spec) for p in rejected]
    table = pa.table(arrays)
    if len(rejected):
        table = table.filter(pa.array(culprit < 0))
    table = table.append_column(HASH, pa.array(key_hash(table.column(REQUEST_ID), table.column(ITEM_ID))))
    return Parsed(
        rows=table.cast(spec.schema),
        rejected=_rejected(
            file,
            batch.rows[rejected],
            reason[rejected],
            [spec.columns[culprit[p]].source for p in rejected],
            details,
            batch.raw(rejected),
        ),
        names=batch.names,
        types={name: casts.type_name(array) for name, array in batch.columns.items()},
        missing={c.name: table.column(c.name).null_count for c in spec.columns if not c.required},
        absent=frozenset(c.name for c in spec.columns if c.source not in batch.columns),
    )


def key_hash(request_id: pa.ChunkedArray, item_id: pa.ChunkedArray) -> np.ndarray:
    """A well mixed uint64 per pair of ids, the same in every process and version."""
    request, item = (
        pd.util.hash_array(ids.to_numpy().astype(object), categorize=False) for ids in (request_id, item_id)
    )
    # The finalizer of splitmix64, so that every bit depends on every bit.
    mixed = request + item * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _rejected(file: LogFile, rows: np.ndarray, *columns: Any) -> pa.Table:
    n = len(rows)
    return pa.table([pa.array([file.log] * n), pa.array([file.relative] * n), rows, *columns], schema=REJECTED_SCHEMA)


def _blame(reason: np.ndarray, culprit: np.ndarray, where: np.ndarray, why: str, column: int) -> None:
    first = where & (culprit < 0)
    reason[first] = why
    culprit[first] = column


def _cast(array: pa.Array, column: Column, spec: LogSpec) -> casts.Cast:
    if column.kind == "id":
        return casts.as_text(array)
    if column.kind == "id_list":
        return casts.as_list(array, column.separator)
    if column.kind == "number":
        return casts.as_number(array)
    return casts.as_time(array, spec.time_unit, spec.timezone)


@functools.cache
def _expected(column: Column, unit: str) -> str:
    if column.kind == "id_list":
        if column.separator is None:
            return "a list of ids (or text, if the feature names its separator)"
        return f"ids separated by '{column.separator}', or a list of ids"
    if column.kind == "time":
        form = "ISO 8601 text" if unit == "iso8601" else f"a number of {unit} since 1970"
        return f"{form} (time_unit {unit}) between 2000 and 2100"
    return {"id": "text or a whole number", "number": "a finite number"}[column.kind]


def _detail(batch: RawBatch, position: int, reason: str, column: Column, spec: LogSpec) -> str:
    expected = f"column '{column.source}': expected {_expected(column, spec.time_unit)}"
    if reason == "missing_column":
        return f"{expected}, found no such column"
    if reason == "missing_value":
        return f"{expected}, found no value"
    array = batch.columns[column.source]
    value = str(array[int(position)].as_py())
    return f"{expected}, found {casts.type_name(array)} {value if len(value) <= 80 else value[:77] + '...'}"
