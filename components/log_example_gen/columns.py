"""Casts of log columns, whatever their type in the file, to the types of the examples.

Each cast takes a column as it was read and gives the column in its one type and the values that do not
fit, by the reason. It looks at every value alone, so that the result for a row does not depend on the
rows read with it. Null stays null: whether a value may be missing is not decided here.
"""

from __future__ import annotations

import contextlib
import zoneinfo
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.log_example_gen.reasons import Reason


class Cast(NamedTuple):
    """A column in its one type, null where a value does not fit, and the masks of these values by reason."""

    values: pa.Array
    faults: dict[Reason, np.ndarray]


EARLIEST_MS = 946_684_800_000  # 2000-01-01: earlier and later times are those of a broken clock or a wrong unit
LATEST_MS = 4_102_444_800_000  # 2100-01-01
EXACT_FLOAT = 2.0**53
"""Whole numbers from here on are not exact in float64, so that a float may stand for another id."""

_WRITTEN = (pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)

_EPOCH = datetime(1970, 1, 1)
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(nan|NaN|NAN|-?inf|-?Infinity)$"
_INTEGER = r"^-?(\d{1,18}|[1-8]\d{18})$"
_ISO8601 = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<clock>\d{2}:\d{2})(?P<second>:\d{2})?(?:[.,](?P<fraction>\d+))?"
    r" ?(?P<zone>Z|z|[+-][01]\d:?[0-5]\d)?$"
)
_COMMON, _ZONE = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?", r"(Z|[+-][01]\d:?[0-5]\d)"
"""The part of _ISO8601 that Arrow reads, at ten times the speed."""


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
        return Cast(column, {})
    if any(is_kind(kind) for is_kind in _WRITTEN):
        return Cast(column.cast(pa.string()), {})
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _decoded(column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = _floats(column)
        with np.errstate(invalid="ignore"):
            fits = (np.abs(numbers) < EXACT_FLOAT) & (np.floor(numbers) == numbers)
        whole = pa.array(np.where(fits, numbers, 0).astype(np.int64), mask=~fits)
        return Cast(whole.cast(pa.string()), _faults(bad_type=~fits & ~np.isnan(numbers)))
    return _no_fit(column, pa.string())


def as_number(column: pa.Array, negative: bool = True) -> Cast:
    """Finite float64; text that reads as a number is one, and NaN is a missing value.

    Args:
      column: numbers, or text with numbers.
      negative: whether a number may be below zero.
    """
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
    below = _none(column) if negative else (numbers < 0) & ~bad
    return Cast(pa.array(numbers, mask=bad | below | np.isnan(numbers)), _faults(bad_type=bad, negative_value=below))


def as_list(column: pa.Array, separator: str | None) -> Cast:
    """Lists of what `as_text` takes, and text cut at the separator. Missing and empty elements are left out."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
        column = pa.array(column.to_pylist(), kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = column
    elif separator is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        lists = pc.split_pattern(column.cast(pa.string()), separator)
    else:
        return _no_fit(column, pa.list_(pa.string()))
    values, faults = as_text(lists.flatten())
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    keep = ~_nulls(values)
    if separator is not None:
        keep &= np.asarray(pc.fill_null(pc.not_equal(pc.binary_length(values), 0), False))
    missing = _nulls(column)
    if not keep.all():
        row = np.repeat(np.arange(len(column)), lengths)
        faults = {reason: np.bincount(row[bad], minlength=len(column)) > 0 for reason, bad in faults.items()}
        for bad in faults.values():
            missing = missing | bad
            keep &= ~bad[row]
        values = values.filter(pa.array(keep))
        lengths = np.bincount(row[keep], minlength=len(column))
    mask = np.append(missing, False) if missing.any() else None
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32(), mask=mask)
    return Cast(pa.ListArray.from_arrays(offsets, values), faults)


def as_time(column: pa.Array, unit: str, zone: str) -> Cast:
    """Epoch ms (int64) from 2000 to 2099, finer times cut.

    Args:
      column: numbers in `unit`, text with such numbers, ISO 8601 text where the unit is 'iso8601', or
        timestamps (which bring their unit).
      unit: s, ms, us, ns or iso8601.
      zone: IANA name of the zone of times without one.
    """
    column = _plain(column)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    unread = missing = _nulls(column)
    if pa.types.is_timestamp(kind):
        ticks = np.asarray(pc.fill_null(column.cast(pa.int64()), -1))
        times = _scale(ticks, kind.unit)
        if kind.tz is None:
            times = _localize(times, zone)
    elif unit == "iso8601":
        if not text:
            return _no_fit(column, pa.int64(), "bad_time")
        times, unread = _read_iso8601(column.cast(pa.string()), zone)
    elif text:
        times, unread = _read_ticks(column, unit)
    elif pa.types.is_integer(kind):
        times = _scale(np.asarray(pc.fill_null(column, 0)), unit)
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        times = _scale(_floats(column), unit)
        if pa.types.is_floating(kind):
            unread = missing = np.isnan(_floats(column))
    else:
        return _no_fit(column, pa.int64(), "bad_time")
    fits = (times >= EARLIEST_MS) & (times < LATEST_MS)
    if fits.all():
        return Cast(pa.array(times), {})
    wrong = ~fits & ~missing
    return Cast(pa.array(times, mask=~fits), _faults(bad_time=wrong & unread, time_out_of_range=wrong & ~unread))


def other_unit(column: pa.Array, unit: str) -> list[str]:
    """Per number that is out of range as a time in `unit`: the unit in which it is not, or ''."""
    found = [""] * len(column)
    for other in _UNIT_NS:
        if other != unit:
            for place in np.flatnonzero(_nulls(as_time(column, other, "UTC").values) == 0):
                found[place] = other
    return found


def _faults(**masks: np.ndarray) -> dict[Reason, np.ndarray]:
    return {reason: mask for reason, mask in masks.items() if mask.any()}  # type: ignore[misc]


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


def _no_fit(column: pa.Array, kind: pa.DataType, reason: Reason = "bad_type") -> Cast:
    return Cast(pa.nulls(len(column), kind), _faults(**{reason: ~_nulls(column)}))


def _decoded(column: pa.Array) -> Cast:
    try:
        # pyarrow 10 casts binary to string without a look at it, and fixed-size binary not at all.
        text = column.cast(pa.binary()).cast(pa.string())
        text.validate(full=True)
        return Cast(text, {})
    except pa.ArrowInvalid:
        values: list[str | None] = []
        for value in column.to_pylist():
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                values.append(None)
        text = pa.array(values, pa.string())
        return Cast(text, _faults(not_utf8=_nulls(text) & ~_nulls(column)))


def _floats(column: pa.Array) -> np.ndarray:
    """float64, NaN where null."""
    if pa.types.is_float16(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float64)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def _read_floats(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Numbers written as text: float64 (NaN where none) and the mask of what is no number."""
    try:
        numbers = _floats(column.cast(pa.float64()))
        # Where all are finite, Arrow takes what _NUMBER does; it knows more ways to write the others.
        if np.isfinite(numbers).sum() == len(column) - column.null_count:
            return numbers, _none(column)
    except pa.ArrowInvalid:
        pass
    reads = np.asarray(pc.fill_null(pc.match_substring_regex(column, _NUMBER), False))
    written = column.filter(pa.array(reads))
    numbers = np.full(len(column), np.nan)
    try:
        numbers[reads] = _floats(written.cast(pa.float64()))
    except pa.ArrowInvalid:  # newer versions refuse what is too large or too small
        numbers[reads] = [float(number) for number in written.to_pylist()]
    return numbers, ~reads & ~_nulls(column)


def _read_ticks(column: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Epoch ms of numbers written as text, and the mask of what is no number."""
    integer = np.asarray(pc.fill_null(pc.match_substring_regex(column, _INTEGER), False))
    if integer.all():
        return _scale(np.asarray(column.cast(pa.int64())), unit), _none(column)
    times = np.full(len(column), -1, np.int64)
    times[integer] = _scale(np.asarray(column.filter(pa.array(integer)).cast(pa.int64())), unit)
    numbers = _read_floats(column.filter(pa.array(~integer)))[0]
    times[~integer] = _scale(numbers, unit)
    unread = _none(column)
    unread[~integer] = np.isnan(numbers)
    return times, unread


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


def _read_iso8601(column: pa.Array, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Epoch ms of ISO 8601 text, and the mask of what is none."""
    for pattern, kind in ((_COMMON + _ZONE + "$", pa.timestamp("us", "UTC")), (_COMMON + "$", pa.timestamp("us"))):
        if column.null_count == 0 and pc.all(pc.match_substring_regex(column, pattern)).as_py():
            with contextlib.suppress(pa.ArrowInvalid):  # such as the 30th of February
                times = np.asarray(column.cast(kind).cast(pa.int64())) // 1000
                return _localize(times, zone) if kind.tz is None else times, _none(column)
    return _read_any_iso8601(column, zone)


def _read_any_iso8601(column: pa.Array, zone: str) -> tuple[np.ndarray, np.ndarray]:
    parts = pc.extract_regex(column, _ISO8601)
    day, clock, second, fraction, offset = (pc.fill_null(pc.struct_field(parts, [i]), "") for i in range(5))
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
    # pandas knows the years from 1678 to 2261: a day beyond them, such as 9999-12-31, is a time out of range.
    year = pc.utf8_slice_codeunits(day, 0, 4)
    known = pc.or_(pc.equal(day, ""), pc.and_(pc.greater(year, "1677"), pc.less(year, "2262")))
    return np.where(read, times, -1), ~read & np.asarray(known)
