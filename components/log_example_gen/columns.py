"""Casts of log columns, whatever their type in the file, to the types of the examples.

Each cast takes a column as it was read and gives the column in its one type and a mask of the
values that do not fit. It looks at every value alone, so that the result for a row does not
depend on the rows read with it. Null stays null: whether a value may be missing is not decided here.
"""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Cast = tuple[pa.Array, np.ndarray]

EARLIEST_MS = 946_684_800_000  # 2000-01-01: earlier and later times are those of a broken clock or a wrong unit
LATEST_MS = 4_102_444_800_000  # 2100-01-01
EXACT_FLOAT = 2.0**53
"""Whole numbers from here on are not exact in float64, so that a float may stand for another id."""

_WRITTEN = (pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)

_EPOCH = datetime(1970, 1, 1)
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(nan|NaN|NAN|-?inf|-?Infinity)$"
_INTEGER = r"^-?\d{1,18}$"
_ISO8601 = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<clock>\d{2}:\d{2})(?P<second>:\d{2})?(?:[.,](?P<fraction>\d+))?"
    r" ?(?P<zone>Z|z|[+-][01]\d:?[0-5]\d)?$"
)


def type_name(column: pa.Array) -> str:
    """What a user calls the type of a column."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "list"
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "object"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return str(kind)


def as_text(column: pa.Array) -> Cast:
    """Text as it is, whole numbers in decimal, true and false. Fractions, lists and objects do not fit."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_string(kind):
        return column, _none(column)
    if any(is_kind(kind) for is_kind in _WRITTEN):
        return column.cast(pa.string()), _none(column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _decoded(column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = _floats(column)
        with np.errstate(invalid="ignore"):
            fits = (np.abs(numbers) < EXACT_FLOAT) & (np.floor(numbers) == numbers)
        whole = pa.array(np.where(fits, numbers, 0).astype(np.int64), mask=~fits)
        return whole.cast(pa.string()), ~fits & ~np.isnan(numbers)
    return _no_fit(column, pa.string())


def as_number(column: pa.Array) -> Cast:
    """Finite float64; text that reads as a number is one, and NaN is a missing value."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numbers, unread = _read_floats(column)
    elif any(is_kind(kind) for is_kind in _NUMERIC):
        numbers, unread = _floats(column), _none(column)
    else:
        return _no_fit(column, pa.float64())
    # Examples hold float32: what overflows there is as infinite as what was so before.
    bad = unread | (np.abs(numbers) > np.finfo(np.float32).max)
    return pa.array(numbers, mask=bad | np.isnan(numbers)), bad


def as_list(column: pa.Array, separator: str | None) -> Cast:
    """Lists of what `as_text` takes, and text cut at the separator. Missing and empty elements are left out."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
        column = pa.array(column.to_pylist(), kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, bad_values = as_text(column.flatten())
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    elif separator is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        pieces = pc.split_pattern(column.cast(pa.string()), separator)
        values, bad_values = as_text(pieces.flatten())
        lengths = np.asarray(pc.fill_null(pc.list_value_length(pieces), 0)).astype(np.int64)
    else:
        return _no_fit(column, pa.list_(pa.string()))
    row = np.repeat(np.arange(len(column)), lengths)
    bad = np.zeros(len(column), bool)
    bad[row[bad_values]] = True
    missing = _nulls(column)
    keep = ~(_nulls(values) | bad_values)
    if separator is not None:
        keep &= np.asarray(pc.fill_null(pc.binary_length(values), 0)) > 0
    counts = np.bincount(row[keep], minlength=len(column))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32(), mask=np.append(missing | bad, False))
    return pa.ListArray.from_arrays(offsets, values.filter(pa.array(keep))), bad


def as_time(column: pa.Array, unit: str, zone: str) -> Cast:
    """Epoch ms (int64) between 2000 and 2100, finer times cut.

    Args:
      column: numbers in `unit`, text with such numbers, ISO 8601 text where the unit is 'iso8601', or
        timestamps (which bring their unit).
      unit: s, ms, us, ns or iso8601.
      zone: IANA name of the zone of times without one.
    """
    column = _plain(column)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_timestamp(kind):
        ticks = np.asarray(pc.fill_null(column.cast(pa.int64()), -1))
        times = _scale(ticks, kind.unit)
        if kind.tz is None:
            times = _localize(times, zone)
    elif unit == "iso8601":
        if not text:
            return _no_fit(column, pa.int64())
        times = _read_iso8601(column.cast(pa.string()), zone)
    elif text:
        integer = np.asarray(pc.fill_null(pc.match_substring_regex(column, _INTEGER), False))
        ticks = column.filter(pa.array(integer)).cast(pa.int64())
        times = np.full(len(column), -1, np.int64)
        times[integer] = _scale(np.asarray(ticks), unit)
        if not integer.all():
            times[~integer] = _scale(_read_floats(column.filter(pa.array(~integer)))[0], unit)
    elif pa.types.is_integer(kind):
        times = _scale(np.asarray(pc.fill_null(column, 0)), unit)
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        times = _scale(_floats(column), unit)
    else:
        return _no_fit(column, pa.int64())
    fits = (times >= EARLIEST_MS) & (times < LATEST_MS)
    missing = _nulls(column)
    if pa.types.is_floating(kind):
        missing |= np.isnan(_floats(column))
    return pa.array(times, mask=missing | ~fits), ~fits & ~missing


def _plain(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    return column


def _nulls(column: pa.Array) -> np.ndarray:
    return np.asarray(column.is_null()) if column.null_count else _none(column)


def _none(column: pa.Array) -> np.ndarray:
    return np.zeros(len(column), bool)


def _no_fit(column: pa.Array, kind: pa.DataType) -> Cast:
    return pa.nulls(len(column), kind), ~_nulls(column)


def _decoded(column: pa.Array) -> Cast:
    try:
        # pyarrow 10 casts binary to string without a look at it, and fixed-size binary not at all.
        text = column.cast(pa.binary()).cast(pa.string())
        text.validate(full=True)
        return text, _none(column)
    except pa.ArrowInvalid:
        values: list[str | None] = []
        for value in column.to_pylist():
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                values.append(None)
        text = pa.array(values, pa.string())
        return text, _nulls(text) & ~_nulls(column)


def _floats(column: pa.Array) -> np.ndarray:
    """float64, NaN where null."""
    if pa.types.is_float16(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float64)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def _read_floats(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Numbers written as text: float64 (NaN where none) and the mask of what is no number."""
    reads = np.asarray(pc.fill_null(pc.match_substring_regex(column, _NUMBER), False))
    numbers = np.full(len(column), np.nan)
    numbers[reads] = _floats(column.filter(pa.array(reads)).cast(pa.float64()))
    return numbers, ~reads & ~_nulls(column)


def _scale(ticks: np.ndarray, unit: str) -> np.ndarray:
    """Epoch ms of times in a unit, -1 where outside of what int64 and `as_time` hold."""
    unit_ns = _UNIT_NS[unit]
    with np.errstate(invalid="ignore"):
        sound = (ticks >= EARLIEST_MS * (10**6 / unit_ns)) & (ticks < LATEST_MS * (10**6 / unit_ns))
    ticks = np.where(sound, ticks, 0)
    if np.issubdtype(ticks.dtype, np.floating):
        # Seconds with a fraction, such as 1767225600.123, are not exact: the nearest ms is the one meant.
        times = np.rint(ticks * (unit_ns / 10**6)).astype(np.int64)
    elif unit_ns >= 10**6:
        times = ticks.astype(np.int64) * (unit_ns // 10**6)
    else:
        times = ticks.astype(np.int64) // (10**6 // unit_ns)
    return np.where(sound, times, -1)


def _localize(wall_ms: np.ndarray, zone: str) -> np.ndarray:
    """Epoch ms of wall-clock times (written as if in UTC). The earlier one where a time comes twice, and
    the time by the old clock where it is skipped. -1 stays."""
    # No zone of this century changes its offset at any time but a full quarter of an hour.
    quarters, place = np.unique(wall_ms // 900_000, return_inverse=True)
    info = zoneinfo.ZoneInfo(zone)
    walls = [_EPOCH + int(q) * timedelta(minutes=15) for q in quarters]
    offset_ms = np.array([(info.utcoffset(w) or timedelta()) // timedelta(milliseconds=1) for w in walls], np.int64)
    return np.where(wall_ms == -1, -1, wall_ms - offset_ms[place])


def _read_iso8601(column: pa.Array, zone: str) -> np.ndarray:
    parts = pc.extract_regex(column, _ISO8601)
    day, clock, second, fraction, offset = (
        pc.fill_null(pc.struct_field(parts, [i]), "") for i in range(5)
    )
    second = pc.if_else(pc.equal(second, ""), ":00", second)
    stamps = pd.to_datetime(
        pc.binary_join_element_wise(day, pc.binary_join_element_wise(clock, second, ""), " ").to_pandas(),
        format="%Y-%m-%d %H:%M:%S",
        errors="coerce",
    )
    read = stamps.notna().to_numpy()
    wall = stamps.to_numpy().astype("datetime64[ms]").astype(np.int64)
    milli = pc.utf8_slice_codeunits(pc.binary_join_element_wise(fraction, "000", ""), 0, 3)
    wall = np.where(read, wall + np.asarray(milli.cast(pa.int64())), -1)
    zoned = np.asarray(pc.not_equal(offset, ""))
    utc = pc.is_in(offset, pa.array(["", "Z", "z"]))
    digits = pc.replace_substring(pc.if_else(utc, "+0000", offset), ":", "")
    hours = np.asarray(pc.utf8_slice_codeunits(digits, 1, 3).cast(pa.int64()))
    minutes = np.asarray(pc.utf8_slice_codeunits(digits, 3, 5).cast(pa.int64()))
    sign = np.where(np.asarray(pc.starts_with(digits, "-")), -1, 1)
    times = np.where(zoned, wall - sign * (hours * 60 + minutes) * 60_000, wall)
    times[read & ~zoned] = _localize(wall[read & ~zoned], zone)
    return np.where(read, times, -1)
