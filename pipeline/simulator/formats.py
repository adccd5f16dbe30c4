"""Writes log files: Parquet, CSV and JSON Lines, with rows broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_TEXT_REASONS = ("malformed_row", "missing_value", "bad_time")
REASONS = {"parquet": ("missing_value", "time_out_of_range"), "csv": _TEXT_REASONS, "jsonl": _TEXT_REASONS}
"""Ways in which a row of each format can be broken, by the reason for which it is to be rejected."""

_NO_TIME = "not-a-time"


def write_log(path: Path, table: pa.Table, file_format: str, required: tuple[str, ...], broken: np.ndarray) -> None:
    """Writes one file.

    Args:
      path: of the file; its folder is made.
      table: rows; lists are joined by '|' in CSV.
      file_format: parquet, csv or jsonl.
      required: columns of which rows with 'missing_value' lack one, in turn.
      broken: [rows], a reason of REASONS where the row is to be broken, else ''.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for i, column in enumerate(required):
        lost = np.flatnonzero(broken == "missing_value")[i :: len(required)]
        if len(lost):
            values = table[column].combine_chunks()
            mask = np.zeros(len(table), bool)
            mask[lost] = True
            table = table.set_column(table.schema.get_field_index(column), column, pc.if_else(mask, None, values))
    if file_format == "parquet":
        if "time" in table.column_names:  # a time in seconds, read as one in ms, is one of January 1970
            time = table["time"].combine_chunks()
            seconds = pc.if_else(broken == "time_out_of_range", pc.divide(time, 1000), time)
            table = table.set_column(table.schema.get_field_index("time"), "time", seconds)
        pq.write_table(table, path)
        return
    lines = (_csv_lines if file_format == "csv" else _json_lines)(table, broken)
    header = [",".join(table.column_names)] if file_format == "csv" else []
    path.write_text("\n".join(header + lines.to_pylist()) + "\n", encoding="utf-8")


def _csv_lines(table: pa.Table, broken: np.ndarray) -> pa.Array:
    columns = _texts(table, broken, _NO_TIME, "|")
    lines = _join(columns, ",", "")
    # Too few fields: the line ends after the second at the latest, whatever the columns are.
    cut = pc.binary_join_element_wise(columns[0], "�", ",", null_handling="replace", null_replacement="")
    return pc.if_else(broken == "malformed_row", cut, lines)


def _json_lines(table: pa.Table, broken: np.ndarray) -> pa.Array:
    fields = []
    for name, text in zip(table.column_names, _texts(table, broken, f'"{_NO_TIME}"', ",")):
        kind = table.schema.field(name).type
        quote = ('"', '"') if pa.types.is_string(kind) else ("[", "]") if pa.types.is_list(kind) else ("", "")
        value = pc.fill_null(_join([pa.scalar(quote[0]), text, pa.scalar(quote[1])], "", None), "null")
        fields.append(_join([pa.scalar(f'"{name}": '), value], "", None))
    lines = _join([pa.scalar("{"), _join(fields, ", ", None), pa.scalar("}")], "", None)
    cut = pc.utf8_slice_codeunits(lines, 0, 20)
    return pc.if_else(broken == "malformed_row", cut, lines)


def _texts(table: pa.Table, broken: np.ndarray, no_time: str, separator: str) -> list[pa.Array]:
    """Every column as text; no value holds a separator, a quote or a line break."""
    columns = []
    for name in table.column_names:
        values = table[name].combine_chunks()
        if pa.types.is_list(values.type):
            text = pc.binary_join(values.cast(pa.list_(pa.string())), separator)
        else:
            text = values.cast(pa.string())
        if name == "time":
            text = pc.if_else(broken == "bad_time", no_time, text)
        columns.append(text)
    return columns


def _join(parts: list, separator: str, null: str | None) -> pa.Array:
    if null is None:
        return pc.binary_join_element_wise(*parts, separator)
    return pc.binary_join_element_wise(*parts, separator, null_handling="replace", null_replacement=null)
