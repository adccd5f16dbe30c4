"""Why a row is rejected: the codes that stand in the rejected rows, the report and the limits."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "malformed_row",
    "not_utf8",
    "missing_column",
    "missing_value",
    "bad_type",
    "bad_time",
    "time_out_of_range",
    "negative_value",
    "unreadable_file",
]

REASONS: dict[Reason, str] = {
    "malformed_row": "A line that cannot be taken apart: too few or too many values, an open quote, or no JSON object.",
    "not_utf8": "A line, or a value of a binary column, that is not UTF-8 text.",
    "missing_column": "The file, or the JSON object, lacks a key or the time.",
    "missing_value": "A key or the time has no value. (A missing feature is no error: it is a missing value.)",
    "bad_type": "A value that is not of its column's kind, such as text in a column of numbers.",
    "bad_time": "A time that cannot be read in the log's `time_unit`.",
    "time_out_of_range": "A time before 2000 or after 2099: that of a broken clock, or in another unit.",
    "negative_value": "The value of an event is below zero, and its log has `negative_values: reject`.",
    "unreadable_file": "The rest of a file that is damaged, as one row, with `logs.unreadable_files: reject`.",
}
