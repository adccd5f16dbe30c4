"""Rows as applications have them (dicts, Arrow tables) to the columns that a signature takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from models.section import UserError

Rows: TypeAlias = "Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatch"
Column: TypeAlias = "list[bytes] | list[list[bytes]] | np.ndarray"


@dataclass(frozen=True)
class Input:
    """An input of a signature.

    Attributes:
      text: whether it takes strings; numbers otherwise.
      rank: 1 for a value a row, 2 for a list a row.
      once: whether it takes one row, whatever the number of candidates.
    """

    text: bool
    rank: int
    once: bool


def columns_of(rows: Rows, inputs: Mapping[str, Input]) -> dict[str, Column]:
    """A column for each input; what a row lacks is missing: '' or NaN.

    Args:
      rows: a dict per row, or a table with a column per input.
      inputs: the inputs.

    Raises:
      UserError: naming the feature that no input is for, or whose value is of the wrong kind.
    """
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        given = {name: rows.column(i).to_pylist() for i, name in enumerate(rows.schema.names)}
        count = rows.num_rows
    elif isinstance(rows, Mapping) or not all(issubclass(t, Mapping) for t in set(map(type, rows))):
        raise UserError(f"expected dicts by feature name, or an Arrow table, got {str(rows)[:80]}")
    else:
        count = len(rows)
        names = rows[0].keys() if rows else ()
        if all(row.keys() == names for row in rows):
            given = {name: [row[name] for row in rows] for name in names}
        else:
            names = dict.fromkeys(name for row in rows for name in row)
            given = {name: [row.get(name) for row in rows] for name in names}
    unknown = sorted(set(given) - set(inputs))
    if unknown:
        raise UserError(f"'{unknown[0]}' is no feature of the model here, expected some of {', '.join(sorted(inputs))}")
    return {name: _column(name, kind, given.get(name) or [None] * count) for name, kind in inputs.items()}



def request_columns(request: Mapping[str, Any], candidates: Rows, inputs: Mapping[str, Input]) -> dict[str, Column]:
    """The columns of one request of `rank`: one row of what the candidates share. Errors are those of `columns_of`."""
    once = columns_of([request], {n: i for n, i in inputs.items() if i.once})
    return once | columns_of(candidates, {n: i for n, i in inputs.items() if not i.once})

def _column(name: str, kind: Input, values: list) -> Column:
    if kind.rank == 2:
        lists = [_texts(name, _list(name, value)) for value in values]
        width = max(map(len, lists), default=0) or 1
        return [row + [b""] * (width - len(row)) for row in lists]
    if kind.text:
        return _texts(name, values)
    return _numbers(name, values)


def _numbers(name: str, values: list) -> np.ndarray:
    types = set(map(type, values))
    # NumPy would take '9.5' for a number, and a list for a row.
    if not all(issubclass(t, (int, float, np.number, type(None))) for t in types):
        wrong = next(v for v in values if v is not None and not isinstance(v, (int, float, np.number)))
        raise UserError(f"feature '{name}': expected numbers, got {wrong!r}")
    if type(None) in types:
        values = [math.nan if v is None else v for v in values]
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=np.float32)
    except (FloatingPointError, OverflowError):
        largest = max((v for v in values if v - v == 0), key=abs)
        raise UserError(f"feature '{name}': expected numbers that fit into float32, got {largest!r:.40}") from None


def _list(name: str, value: Any) -> Sequence | np.ndarray:
    if value is None:
        return ()
    if isinstance(value, (list, tuple, np.ndarray)):
        return value
    raise UserError(f"feature '{name}': expected a list, got {value!r}")


def _texts(name: str, values: Sequence | np.ndarray) -> list[bytes]:
    # A large request has tens of thousands of values, mostly of one type.
    types = set(map(type, values))
    if types == {str}:
        return [value.encode() for value in values]
    if types == {int}:
        return [b"%d" % value for value in values]
    return [_text(name, value) for value in values]


def _text(name: str, value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
        return str(value).encode()
    raise UserError(f"feature '{name}': expected text or whole numbers, got {value!r}")
