"""Reads log files in batches of columns and keeps apart the rows that are no rows.

A row of a CSV or JSON Lines file is a line that is not blank, so a line break inside quotes is
malformed: a file whose quotes are broken then loses a line and not all that follows it. Blocks of
lines are parsed at once; only where that fails are lines looked at one by one.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from components.log_example_gen.columns import EXACT_FLOAT
from components.log_example_gen.config import LogFormat
from components.log_example_gen.reasons import Reason
from models.section import UserError

BLOCK_BYTES = 8 << 20
BATCH_ROWS = 1 << 17
_PARQUET_BUFFER = 1 << 20

_UNREADABLE = (pa.ArrowException, OSError, EOFError, zlib.error, BeamIOError)


class UnreadableFile(UserError):
    """A file of which no row can be trusted: truncated, or not of the format configured."""


@dataclass(frozen=True)
class RawBatch:
    """Rows as they stand in the file.

    Attributes:
      rows: numbers of the rows in the file, from 1; a CSV header is not a row.
      columns: the columns asked for that are there.
      names: all columns that are there.
      raw: text of the rows at some positions of the batch.
      absent: whether the row at a position lacks a column altogether, which JSON tells from null.
    """

    rows: np.ndarray
    columns: dict[str, pa.Array]
    names: tuple[str, ...]
    raw: Callable[[np.ndarray], list[str]]
    absent: Callable[[int, str], bool]


@dataclass(frozen=True)
class Malformed:
    """Rows that cannot be taken apart: their numbers, their text and what is wrong with each."""

    rows: np.ndarray
    raw: list[str]
    details: list[str]
    reason: Reason = "malformed_row"


def read_batches(
    path: str,
    form: LogFormat,
    columns: Sequence[str],
    block_bytes: int = BLOCK_BYTES,
    batch_rows: int = BATCH_ROWS,
    groups: range | None = None,
) -> Iterator[Union[RawBatch, Malformed]]:
    """Reads a file in batches, in the order of its rows.

    Args:
      path: file, on any file system that Beam knows; '.gz' is unpacked.
      form: its format.
      columns: columns wanted.
      block_bytes: text read at once from CSV and JSON Lines.
      batch_rows: rows read at once from Parquet.
      groups: the row groups of a Parquet file to read; all by default.

    Raises:
      UnreadableFile: naming the file.
    """
    try:
        with _open(path) as handle:
            if form == "parquet":
                yield from _read_parquet(handle, columns, batch_rows, groups)
            elif form == "csv":
                yield from _read_csv(handle, columns, block_bytes)
            else:
                yield from _read_jsonl(handle, columns, block_bytes)
    except UnreadableFile as error:
        raise UnreadableFile(f"{path}: {error}") from error
    except _UNREADABLE as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UnreadableFile(f"{path}: cannot be read as {_FORMAT_NAMES[form]}: {reason}") from error


def has_rows(path: str, form: LogFormat) -> bool:
    """Whether a file has any row, good or bad.

    Raises:
      UnreadableFile: naming the file.
    """
    if form == "parquet":
        try:
            with _open(path) as handle:
                return pq.ParquetFile(handle).metadata.num_rows > 0
        except _UNREADABLE:
            pass  # to the same error with its message, below
    return next(read_batches(path, form, (), block_bytes=1 << 16, batch_rows=1), None) is not None


def row_group_bytes(path: str) -> list[int]:
    """Bytes of each row group of a Parquet file; no group where it cannot be read."""
    try:
        with _open(path) as handle:
            metadata = pq.ParquetFile(handle).metadata
            groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
            return [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]
    except _UNREADABLE:
        return []


_FORMAT_NAMES = {"parquet": "Parquet", "csv": "CSV", "jsonl": "JSON Lines"}


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    packed = path.endswith(".gz")
    if "://" not in path:
        file: Any = pa.OSFile(path)
    else:
        # Beam's own gzip reader takes a truncated file for a whole one.
        kind = CompressionTypes.UNCOMPRESSED if packed else CompressionTypes.AUTO
        file = contextlib.closing(FileSystems.open(path, compression_type=kind))
    with file as handle:
        yield gzip.GzipFile(fileobj=handle) if packed else handle


def _read_parquet(handle: Any, columns: Sequence[str], batch_rows: int, groups: range | None) -> Iterator[RawBatch]:
    # A buffer: without one a column of a row group is read in one piece, however large it is.
    file = pq.ParquetFile(handle, buffer_size=_PARQUET_BUFFER)
    groups = range(file.num_row_groups) if groups is None else groups
    names = tuple(file.schema_arrow.names)
    repeated = sorted({n for n in columns if names.count(n) > 1})
    if repeated:
        raise UnreadableFile(f"column '{repeated[0]}' is there twice")
    there = [c for c in columns if c in names]
    # Without any column, batches have no length: a file that lacks all of them still has rows.
    first = 1 + sum(file.metadata.row_group(g).num_rows for g in range(groups.start))
    for batch in file.iter_batches(batch_rows, row_groups=list(groups), columns=there or list(names[:1])):
        rows = np.arange(first, first + batch.num_rows)
        first += batch.num_rows
        yield RawBatch(
            rows=rows,
            columns={name: batch.column(batch.schema.get_field_index(name)) for name in there},
            names=names,
            raw=lambda positions, batch=batch: [  # type: ignore[misc]
                json.dumps(row, default=str, ensure_ascii=False)
                for row in pa.Table.from_batches([batch]).take(pa.array(positions, pa.int64())).to_pylist()
            ],
            absent=lambda position, name: False,
        )


class _Lines:
    """Lines of a block of text that are not blank, numbered."""

    def __init__(self, block: bytes, starts: np.ndarray, ends: np.ndarray, rows: np.ndarray):
        self.block, self.starts, self.ends, self.rows = block, starts, ends, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> _Lines:
        return _Lines(self.block, self.starts[chosen], self.ends[chosen], self.rows[chosen])

    def line(self, position: int) -> bytes:
        return self.block[self.starts[position] : self.ends[position]]

    def text(self, position: int) -> str:
        return self.line(position).decode("utf-8", errors="backslashreplace")

    def texts(self, positions: np.ndarray) -> list[str]:
        return [self.text(p) for p in positions]

    def joined(self) -> pa.Buffer:
        """The lines as one text."""
        first, last = int(self.starts[0]), int(self.ends[-1])
        if (self.starts[1:] - self.ends[:-1] == 1).all() and self.block[last : last + 1] == b"\n":
            return pa.py_buffer(self.block).slice(first, last + 1 - first)
        if self.block.count(b"\n", first, last) == len(self) - 1:
            return pa.py_buffer(self.block[first:last] + b"\n")
        return pa.py_buffer(b"".join(self.line(p) + b"\n" for p in range(len(self))))

    def counts(self, byte: bytes) -> np.ndarray:
        """How often a byte is in each line."""
        if byte not in self.block:
            return np.zeros(len(self), np.int64)
        places = np.flatnonzero(np.frombuffer(self.block, np.uint8) == ord(byte))
        return np.searchsorted(places, self.ends) - np.searchsorted(places, self.starts)

    def malformed(self, chosen: np.ndarray, details: Sequence[str]) -> Malformed:
        return Malformed(self.rows[chosen], self.texts(chosen), list(details))

    def without_foul(self) -> tuple[_Lines, list[Malformed]]:
        """Takes out the lines that are not UTF-8 or hold a NUL or a line break of another kind."""
        found = []
        lines = self
        for byte, name in ((b"\r", "a carriage return"), (b"\0", "a NUL byte")):
            if (foul := lines.counts(byte) > 0).any():
                at = np.flatnonzero(foul)
                found.append(lines.malformed(at, [f"{name} inside the line"] * len(at)))
                lines = lines[~foul]
        try:
            self.block.decode("utf-8")
        except UnicodeDecodeError:
            high = np.frombuffer(self.block, np.uint8) >= 0x80
            touched = np.concatenate([[0], np.cumsum(high)])
            foul = np.zeros(len(lines), bool)
            for position in np.flatnonzero(touched[lines.ends] > touched[lines.starts]):
                try:
                    lines.line(position).decode("utf-8")
                except UnicodeDecodeError:
                    foul[position] = True
            at = np.flatnonzero(foul)
            found.append(Malformed(lines.rows[at], lines.texts(at), ["not UTF-8"] * len(at), "not_utf8"))
            lines = lines[~foul]
        return lines, [f for f in found if len(f.rows)]


def _read_lines(handle: BinaryIO, block_bytes: int) -> Iterator[_Lines]:
    rest = b""
    row = 1
    begin = True
    while True:
        read = handle.read(block_bytes)
        block = rest + read
        if begin and block:
            block, begin = block.removeprefix(b"\xef\xbb\xbf"), False
        if read:
            cut = block.rfind(b"\n") + 1
            block, rest = block[:cut], block[cut:]
        if block:
            bytes_ = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(bytes_ == ord("\n"))
            if not block.endswith(b"\n"):
                ends = np.append(ends, len(block))
            starts = np.concatenate([[0], ends[:-1] + 1])
            ends = ends - ((ends > starts) & (bytes_[ends - 1] == ord("\r")))
            full = ends > starts
            lines = _Lines(block, starts[full], ends[full], np.arange(row, row + full.sum()))
            row += len(lines)
            if len(lines):
                yield lines
        if not read:
            return


def _read_csv(handle: BinaryIO, columns: Sequence[str], block_bytes: int) -> Iterator[Union[RawBatch, Malformed]]:
    header: list[str] = []
    for lines in _read_lines(handle, block_bytes):
        if not header:
            try:
                header = [name.strip() for name in next(csv.reader([lines.line(0).decode("utf-8")], strict=True))]
            except (UnicodeDecodeError, csv.Error) as error:
                raise UnreadableFile(f"the header of the CSV file cannot be read: {lines.text(0)!r}") from error
            repeated = sorted({name for name in header if header.count(name) > 1})
            if repeated:
                raise UnreadableFile(f"column '{repeated[0]}' is in the CSV header twice")
            lines = lines[1:]
        lines.rows -= 1
        lines, foul = lines.without_foul()
        odd = lines.counts(b'"') % 2 == 1
        if odd.any():
            at = np.flatnonzero(odd)
            foul.append(lines.malformed(at, ["a quote that is not closed"] * len(at)))
            lines = lines[~odd]
        yield from foul
        # An open quote takes the rest of the text, so it is the last column that shows it.
        made = [name for name in header if name in columns or name == header[-1]]
        for part in _parse_csv(lines, header, made):
            if isinstance(part, Malformed):
                yield part
                continue
            table, good = part
            yield RawBatch(
                rows=good.rows,
                columns={c: table.column(c).combine_chunks() for c in columns if c in header},
                names=tuple(header),
                raw=good.texts,
                absent=lambda position, name: False,
            )


def _parse_csv(
    lines: _Lines, header: Sequence[str], made: Sequence[str]
) -> Iterator[Union[tuple[pa.Table, _Lines], Malformed]]:
    if not len(lines):
        return
    invalid: dict[int, int] = {}

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        invalid[row.number - 1] = row.actual_columns
        return "skip"

    text = lines.joined()
    try:
        # Not read_csv: with Python 3.10 each call walks all objects of the process, 0.1 s with TensorFlow loaded.
        table = pyarrow.csv.open_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(header), use_threads=False, block_size=text.size + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=skip),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(made),
                column_types={name: pa.string() for name in made},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ).read_all()
    except pa.ArrowInvalid:
        table = None
    # A value that goes over lines costs a row, but for one that is open at the end, which takes the last line break.
    if table is not None and table.num_rows and (table.column(header[-1])[-1].as_py() or "").endswith("\n"):
        table = None
    if table is not None and table.num_rows + len(invalid) == len(lines):
        bad = np.zeros(len(lines), bool)
        bad[list(invalid)] = True
        if invalid:
            details = [f"{invalid[p]} columns where the header has {len(header)}" for p in sorted(invalid)]
            yield lines.malformed(np.flatnonzero(bad), details)
        if table.num_rows:
            yield table, lines[~bad]
    elif len(lines) == 1:
        yield lines.malformed(np.array([0]), ["a quote that is not closed"])
    else:
        # A quote opens a value on one line and closes it on another: find the line by halves.
        half = len(lines) // 2
        yield from _parse_csv(lines[:half], header, made)
        yield from _parse_csv(lines[half:], header, made)


def _read_jsonl(handle: BinaryIO, columns: Sequence[str], block_bytes: int) -> Iterator[Union[RawBatch, Malformed]]:
    for lines in _read_lines(handle, block_bytes):
        lines, foul = lines.without_foul()
        yield from foul
        bytes_ = np.frombuffer(lines.block, np.uint8)
        whole = (bytes_[lines.starts] == ord("{")) & (bytes_[lines.ends - 1] == ord("}"))
        yield from _parse_jsonl_by_line(lines[~whole], columns)
        yield from _parse_jsonl(lines[whole], columns)


def _parse_jsonl(lines: _Lines, columns: Sequence[str]) -> Iterator[Union[RawBatch, Malformed]]:
    """Parses lines at once, where they are one object each with one type per column; otherwise fewer at once."""
    if not len(lines):
        return
    text = lines.joined()
    types: dict[str, pa.DataType] = {}
    wanted: list[pa.Field] = []
    table = None
    while table is None:
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(text),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=text.size + 1),
                parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema(types)) if types else None,
            )
        except pa.ArrowInvalid as error:
            # A few rows have text in a column of numbers, or the other way round: each kind is parsed for itself.
            mixed = re.search(r"Column\(/(.+?)\) changed from (?:string to number|number to string)", str(error))
            if mixed:
                pattern = rf'"{re.escape(mixed[1])}"\s*:\s*"'
                is_text = np.asarray(pc.match_substring_regex(pa.array(lines.texts(np.arange(len(lines)))), pattern))
                if 0 < is_text.sum() < len(lines):
                    yield from _parse_jsonl(lines[is_text], columns)
                    yield from _parse_jsonl(lines[~is_text], columns)
                    return
            break
        wanted = [table.schema.field(c) for c in columns if c in table.column_names]
        # Text that looks like a time is read as one, which forgets how it was written.
        times = {field.name: text_type for field in wanted if (text_type := _without_times(field.type)) != field.type}
        if times:
            types.update(times)
            table = None
    if (
        table is None
        or table.num_rows != len(lines)
        or not all(_exact(chunk) for field in wanted for chunk in table.column(field.name).chunks)
    ):
        yield from _parse_jsonl_by_line(lines, columns)
        return
    yield RawBatch(
        rows=lines.rows,
        columns={c: table.column(c).combine_chunks() for c in columns if c in table.column_names},
        names=tuple(table.column_names),
        raw=lines.texts,
        absent=lambda position, name: name not in json.loads(lines.text(position)),
    )


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return kind


def _parse_jsonl_by_line(lines: _Lines, columns: Sequence[str]) -> Iterator[Union[RawBatch, Malformed]]:
    """Rows line by line, in groups of which every column has one type."""
    malformed: list[tuple[int, str]] = []
    positions: list[int] = []
    rows: list[dict[str, Any]] = []
    for position in range(len(lines)):
        try:
            row = json.loads(lines.text(position))
        except (ValueError, RecursionError) as error:
            malformed.append((position, f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            positions.append(position)
            rows.append(row)
        else:
            malformed.append((position, f"expected a JSON object, got {json.dumps(row)[:40]}"))
    if malformed:
        yield lines.malformed(np.array([p for p, _ in malformed]), [detail for _, detail in malformed])
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name) for row in rows] for name in columns if name in names}
    arrays = {name: _one_type(column) for name, column in values.items()}
    mixed = {name: [_typed(v) for v in values[name]] for name, array in arrays.items() if array is None}
    groups: dict[tuple[str, ...], list[int]] = {}
    if mixed:
        for member, kinds in enumerate(zip(*([kind for kind, _ in typed] for typed in mixed.values()))):
            groups.setdefault(kinds, []).append(member)
    elif rows:
        groups[()] = list(range(len(rows)))
    for kinds, members in groups.items():
        chosen = lines[np.array([positions[m] for m in members])]
        of_group = {name: array.take(pa.array(members)) for name, array in arrays.items() if array is not None}
        for (name, typed), kind in zip(mixed.items(), kinds):
            of_group[name] = pa.array([typed[m][1] for m in members], _JSON_TYPES[kind])
        yield RawBatch(
            rows=chosen.rows,
            columns=of_group,
            names=tuple(names),
            raw=chosen.texts,
            absent=lambda position, name, lines=chosen: name not in json.loads(lines.text(position)),  # type: ignore[misc]
        )


def _one_type(values: list[Any]) -> pa.Array | None:
    """The values as they are, if there is one type that holds them."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
    return array if _exact(array) else None


def _exact(array: pa.Array) -> bool:
    """False where whole numbers may have lost digits by being read as floats."""
    while pa.types.is_list(array.type):
        array = array.flatten()
    return not (pa.types.is_floating(array.type) and np.any(np.abs(np.asarray(array)) >= EXACT_FLOAT))


_SCALARS = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "object": pa.struct([pa.field("json", pa.string())]),
}
_JSON_TYPES = {**_SCALARS, **{f"list of {name}": pa.list_(kind) for name, kind in _SCALARS.items()}}


def _typed(value: Any) -> tuple[str, Any]:
    """A JSON value and the name of the Arrow type that holds it as it is."""
    if value is None:
        return "null", None
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        # Text is the one exact form of a whole number that does not fit.
        return ("int", value) if -(2**63) <= value < 2**63 else ("text", str(value))
    if isinstance(value, float):
        return "float", value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return "object", {"json": json.dumps(value)}
        return "text", value
    if isinstance(value, list):
        typed = [_typed(v) for v in value]
        kinds = {kind for kind, _ in typed} - {"null"}
        if len(kinds) <= 1 and (kind := next(iter(kinds), "null")) in _SCALARS:
            return f"list of {kind}", [v for _, v in typed]
        if kinds <= {"int", "float"}:
            return "list of float", value
        if kinds <= {"int", "text"}:
            return "list of text", [v if kind == "null" else str(v) for kind, v in typed]
    return "object", {"json": json.dumps(value)}
