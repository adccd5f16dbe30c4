"""Rows of a log as typed columns, and the rows that are rejected with the reason."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.log_example_gen import columns as casts
from components.log_example_gen.config import EventLog, ExposureLog, LogFormat, LogsConfig, TimeUnit
from components.log_example_gen.reading import Malformed, RawBatch, UnreadableFile, read_batches
from components.log_example_gen.reasons import REASONS, Reason
from components.log_example_gen.window import EXPOSURES, LogFile
from models.features import Feature
from models.section import UserError
from models.tasks import WEIGHT

REQUEST_ID, ITEM_ID, USER_ID, EVENT_TIME = "request_id", "item_id", "user_id", "event_time"
VALUE = "value"
HASH = "hash"
"""Column with a 64-bit hash of the key of the row, which decides its bucket and its place among the examples."""
USER_HASH = "user_hash"
"""Column of the exposures with the hash of (user_id, item_id), for events that are joined by it."""

REJECTED_SCHEMA = pa.schema(
    [("log", pa.string()), ("file", pa.string()), ("row", pa.int64())]
    + [(name, pa.string()) for name in ("reason", "column", "detail", "raw")]
)
"""A rejected row: its log, file (under logs.root) and number there from 1, a code of REASONS, the column of the log
that does not fit (null for the row itself), what was expected and found, and the text of the row; of Parquet, which
has none, the columns that are read, as JSON."""

Hash = tuple[str, tuple[str, str]]
"""Column with the hash of two ids, and their columns."""

Kind = Literal["id", "id_list", "number", "time"]

_TYPES = {"id": pa.string(), "id_list": pa.list_(pa.string()), "number": pa.float64(), "time": pa.int64()}


@dataclass(frozen=True)
class Column:
    """A column to read: its name among the examples, in the log, and what it should hold.

    Attributes:
      name, source: its name among the examples, and in the log.
      kind: what it should hold.
      required: whether a row without a value is rejected.
      separator: cuts text to an id_list.
      negative: whether a number may be below zero.
    """

    name: str
    source: str
    kind: Kind
    required: bool = False
    separator: str | None = None
    negative: bool = True

    @property
    def type(self) -> pa.DataType:
        return _TYPES[self.kind]


@dataclass(frozen=True)
class LogSpec:
    """How to read one log.

    Attributes:
      columns: what to read.
      hashes: the hashes of a row: name of the column, and the ids of the key, the item last.
      by_item: rows of an item have hashes of the same high half, so that they meet in one bucket. A
        bucket is then no smaller than the largest item.
      unreadable: what a damaged file does.
    """

    log: str
    form: LogFormat
    time_unit: TimeUnit
    timezone: str
    columns: tuple[Column, ...]
    hashes: tuple[Hash, ...]
    by_item: bool
    unreadable: Literal["stop", "reject"] = "stop"

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.source for c in self.columns))

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(c.name, c.type) for c in self.columns] + [(name, pa.uint64()) for name, _ in self.hashes])

    @property
    def key(self) -> tuple[str, str]:
        """The columns by which the log is joined: request or user, and item."""
        return self.hashes[0][1]

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
    by_user = any(log.columns.request_id is None for log in logs.events.values())
    taken = {
        EVENT_TIME: "the time of the exposure",
        WEIGHT: "the weight of the example",
        HASH: "internal use",
        USER_HASH: "internal use",
    }
    for event, log in logs.events.items():
        taken[event] = f"the label of event '{event}'"
        taken[count_name(event)] = f"the count of event '{event}'"
        taken[delay_name(event)] = f"the delay of event '{event}'"
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
    for name, extra in logs.exposures.extra.items():
        if name in taken:
            raise UserError(f"logs.exposures.extra: expected another name than '{name}', it is taken by {taken[name]}")
        columns.setdefault(name, Column(name, name, extra))

    by_request = (HASH, (REQUEST_ID, ITEM_ID))

    def spec(name: str, log: ExposureLog | EventLog, columns: Iterable[Column], *hashes: Hash) -> LogSpec:
        of_log = log.format, log.time_unit, logs.timezone, tuple(columns)
        return LogSpec(name, *of_log, hashes, by_user, logs.unreadable_files)

    by_users = [(USER_HASH, (USER_ID, ITEM_ID))] if by_user else []
    specs = {EXPOSURES: spec(EXPOSURES, logs.exposures, columns.values(), by_request, *by_users)}
    for event, log in logs.events.items():
        names = log.columns
        owner = USER_ID if names.request_id is None else REQUEST_ID
        event_columns = [
            Column(owner, names.owner, "id", required=True),
            Column(ITEM_ID, names.item_id, "id", required=True),
            Column(EVENT_TIME, names.time, "time", required=True),
        ]
        if names.value is not None:
            event_columns.append(Column(VALUE, names.value, "number", negative=log.negative_values == "keep"))
        specs[event] = spec(event, log, event_columns, (HASH, (owner, ITEM_ID)))
    return specs


def value_name(event: str) -> str:
    """Name among the examples of the summed value of an event."""
    return f"{event}_value"


def count_name(event: str) -> str:
    """Name among the examples of how often an event came."""
    return f"{event}_count"


def delay_name(event: str) -> str:
    """Name among the examples of the time from the exposure to the first event, in ms; missing without an event."""
    return f"{event}_delay_ms"


def parse_file(file: LogFile, spec: LogSpec, groups: range | None = None) -> Iterator[Parsed]:
    """Reads a file of a log; every row is among the rows or among the rejected ones.

    Args:
      file: the file.
      spec: the log.
      groups: the row groups of a Parquet file to read; all by default.

    Raises:
      UnreadableFile: naming the file, unless such files are to be rejected: then the rest of the file, of which
        nobody knows how many rows it has, is one rejected row.
    """
    last = 0
    try:
        for batch in read_batches(file.path, spec.form, spec.sources, groups=groups):
            last = max(last, int(batch.rows[-1]))
            if isinstance(batch, Malformed):
                rejected = _rejected(file, batch.rows, batch.reason, None, batch.details, batch.raw)
                yield Parsed(rows=spec.schema.empty_table(), rejected=rejected)
            else:
                yield parse_batch(batch, file, spec)
    except UnreadableFile as error:
        if spec.unreadable == "stop":
            raise
        rest = _rejected(file, np.array([last + 1]), "unreadable_file", None, [str(error)], [""])
        yield Parsed(rows=spec.schema.empty_table(), rejected=rest)


def parse_batch(batch: RawBatch, file: LogFile, spec: LogSpec) -> Parsed:
    """Casts the columns of a batch; a row is rejected for the first of its columns that does not fit."""
    n = len(batch.rows)
    arrays: dict[str, pa.Array] = {}
    blame = _Blame(n)
    for index, column in enumerate(spec.columns):
        array = batch.columns.get(column.source)
        if array is None:
            arrays[column.name] = pa.nulls(n, column.type)
            if column.required:
                blame.add(np.ones(n, bool), "missing_column", index)
            continue
        values, faults = _cast(array, column, spec)
        arrays[column.name] = values
        for reason, bad in faults.items():
            blame.add(bad, reason, index)
        if column.required and (missing := _missing(values, column)) is not None:
            for bad in faults.values():
                missing &= ~bad
            for position in np.flatnonzero(missing & (blame.column < 0)):
                if batch.absent(position, column.source):
                    blame.add(np.arange(n) == position, "missing_column", index)
            blame.add(missing, "missing_value", index)
    table = pa.table(arrays)
    if blame.any:
        table = table.filter(pa.array(blame.column < 0))
    for name, (owner, item) in spec.hashes:
        table = table.append_column(name, pa.array(key_hash(table.column(owner), table.column(item), spec.by_item)))
    return Parsed(
        rows=table.cast(spec.schema),
        rejected=_blamed(batch, blame, file, spec) if blame.any else REJECTED_SCHEMA.empty_table(),
        names=batch.names,
        types={name: casts.type_name(array) for name, array in batch.columns.items()},
        missing={c.name: table.column(c.name).null_count for c in spec.columns if not c.required},
        absent=frozenset(c.name for c in spec.columns if c.source not in batch.columns),
    )


def key_hash(owner_id: pa.ChunkedArray, item_id: pa.ChunkedArray, by_item: bool = False) -> np.ndarray:
    """A well mixed uint64 per pair of ids, the same in every process and version.

    Args:
      owner_id: requests or users.
      item_id: items.
      by_item: take the high half from the item alone.
    """
    owner, item = _id_hash(owner_id), _id_hash(item_id)
    mixed = mix(owner + item * np.uint64(0x9E3779B97F4A7C15))
    if by_item:
        low = np.uint64(0xFFFFFFFF)
        mixed = (mix(item) & ~low) | (mixed & low)
    return mixed


def _id_hash(ids: pa.ChunkedArray) -> np.ndarray:
    # Ids come more than once, and each different one is hashed once.
    encoded = pa.concat_arrays([*ids.chunks, pa.array([], pa.string())]).dictionary_encode()
    of_id = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    return of_id[encoded.indices.to_numpy()]


def mix(numbers: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64, by which every bit comes to depend on every bit; uint64 [n]."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Blame:
    """Per row of a batch, the first column that does not fit (its index, or -1) and the reason (its code)."""

    def __init__(self, rows: int):
        self.column = np.full(rows, -1, np.int16)
        self.reason = np.zeros(rows, np.int8)
        self.any = False

    def add(self, where: np.ndarray, reason: Reason, column: int) -> None:
        first = where & (self.column < 0)
        self.column[first] = column
        self.reason[first] = _CODES.index(reason)
        self.any |= bool(first.any())


_CODES = tuple(REASONS)


def _missing(values: pa.Array, column: Column) -> np.ndarray | None:
    """Rows without a value, empty text among them; None if there is none."""
    if column.kind == "id":
        lengths = pc.fill_null(pc.binary_length(values), 0)
        return None if not len(values) or pc.min(lengths).as_py() else np.asarray(pc.equal(lengths, 0)).copy()
    return np.asarray(values.is_null()).copy() if values.null_count else None


def _blamed(batch: RawBatch, blame: _Blame, file: LogFile, spec: LogSpec) -> pa.Table:
    """The rejected rows of a batch, in its order."""
    positions = np.flatnonzero(blame.column >= 0)
    code, index = blame.reason[positions], blame.column[positions]
    details = np.empty(len(positions), object)
    for c, i in np.unique(np.stack([code, index]), axis=1).T:
        of_kind = (code == c) & (index == i)
        details[of_kind] = _details(batch, positions[of_kind], _CODES[c], spec.columns[i], spec)
    sources = np.array([column.source for column in spec.columns], object)[index]
    reasons = np.array(_CODES, object)[code]
    return _rejected(file, batch.rows[positions], reasons, sources, details, batch.raw(positions))


def _rejected(
    file: LogFile,
    rows: np.ndarray,
    reasons: np.ndarray | Reason,
    sources: np.ndarray | None,
    details: np.ndarray | list[str],
    raw: list[str],
) -> pa.Table:
    def same(value: str | None) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.string()), len(rows))

    columns = [
        same(file.log),
        same(file.relative),
        pa.array(rows, pa.int64()),
        same(reasons) if isinstance(reasons, str) else pa.array(reasons, pa.string()),
        same(None) if sources is None else pa.array(sources, pa.string()),
        pa.array(details, pa.string()),
        pa.array(raw, pa.string()),
    ]
    return pa.table(columns, schema=REJECTED_SCHEMA)


def _cast(array: pa.Array, column: Column, spec: LogSpec) -> casts.Cast:
    if column.kind == "id":
        return casts.as_text(array)
    if column.kind == "id_list":
        return casts.as_list(array, column.separator)
    if column.kind == "number":
        return casts.as_number(array, column.negative)
    return casts.as_time(array, spec.time_unit, spec.timezone)


@functools.cache
def _expected(column: Column, unit: str) -> str:
    if column.kind == "id_list":
        if column.separator is None:
            return "a list of ids (or text, if the feature names its separator)"
        return f"ids separated by '{column.separator}', or a list of ids"
    if column.kind == "time":
        form = "ISO 8601 text" if unit == "iso8601" else f"a number of {unit} since 1970"
        return f"{form} (time_unit {unit}) from 2000 to 2099"
    if column.kind == "number":
        return "a finite number" if column.negative else "a finite number, not below zero"
    return "text or a whole number"


def _details(batch: RawBatch, positions: np.ndarray, reason: Reason, column: Column, spec: LogSpec) -> list[str]:
    """What was expected and what was found at positions of one reason and column."""
    expected = f"column '{column.source}': expected {_expected(column, spec.time_unit)}"
    if reason == "missing_column":
        return [f"{expected}, found no such column"] * len(positions)
    if reason == "missing_value":
        return [f"{expected}, found no value"] * len(positions)
    found = batch.columns[column.source].take(pa.array(positions))
    kind = casts.type_name(found)
    texts = (text if len(text) <= 80 else text[:77] + "..." for text in map(str, found.to_pylist()))
    details = [f"{expected}, found {kind} {text}" for text in texts]
    if reason == "time_out_of_range" and spec.time_unit != "iso8601" and not pa.types.is_timestamp(found.type):
        units = casts.other_unit(found, spec.time_unit)
        details = [f"{detail}, which is in range as {unit}" if unit else detail for detail, unit in zip(details, units)]
    return details
