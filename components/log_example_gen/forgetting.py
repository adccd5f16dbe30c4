"""Takes the rows of users out of the joined days, for deletion requests."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tfx.dsl.io import fileio

from components.log_example_gen.days import (
    STOPPED_DIR,
    file_folders,
    joined_folders,
    link,
    move_whole,
    read_folder,
    write_manifest,
)
from components.log_example_gen.forgotten import Forgotten
from components.log_example_gen.parsing import USER_ID, count_name
from components.log_example_gen.window import EXPOSURES

_READ_AT_ONCE = 8192


@dataclass(frozen=True)
class Removed:
    """What was taken out.

    Attributes:
      examples: examples per day, over all configurations under which it was joined.
      rejected: rejected rows that were kept of log files.
    """

    examples: dict[date, int]
    rejected: int


def forget(uri: str, users: Collection[str]) -> Removed:
    """Puts users on the list of forgotten ones and takes their rows out of all joined days.

    First the list is written: what is joined from then on leaves them out. The report of a run that was stopped is
    removed. Then each day's folder is replaced by one
    without their rows. Doing it again after a kill finishes what is left.

    Args:
      uri: folder of the joined days.
      users: ids of the users.
    """
    fileio.makedirs(uri)
    forgotten = Forgotten.read(uri).with_users(users)
    forgotten.write(uri)
    if fileio.exists(stopped := os.path.join(uri, STOPPED_DIR)):
        fileio.rmtree(stopped)
    examples: dict[date, int] = {}
    for day, folder in joined_folders(uri):
        examples[day] = examples.get(day, 0) + _clean_day(folder, forgotten)
    rejected = sum(_clean_file(folder, users) for folder in file_folders(uri))
    return Removed({day: rows for day, rows in sorted(examples.items()) if rows}, rejected)


def count_rows(path: str, forgotten: Forgotten) -> int:
    """Number of examples of forgotten users in a file."""
    return sum(int(theirs.sum()) for _, theirs, _ in _read(path, forgotten, ()))


def _clean_day(folder: str, forgotten: Forgotten) -> int:
    """Replaces the folder of a day by one without the rows of forgotten users; gives their number."""
    manifest = read_folder(folder, "shards")
    assert manifest is not None
    if manifest["forgotten"] == forgotten.digest:
        return 0
    counts, day = manifest["counts"], manifest["day"]
    events = [log for log in counts["outcomes"] if log != EXPOSURES]
    part = f"{folder}.{uuid.uuid4().hex}"
    fileio.makedirs(part)
    shards, total = {}, 0
    for name, rows in manifest["shards"].items():
        removed = _copy_without(os.path.join(folder, name), os.path.join(part, name), forgotten, events)
        total += removed["rows"]
        if removed["rows"] < rows:
            shards[name] = rows - removed["rows"]
        for event in events:
            _move(counts["outcomes"][event].get(day, {}), removed["counts"][event])
            counts["examples"][day]["labels"][event] -= removed["labels"][event]
    if total:
        counts["examples"][day]["rows"] -= total
        _move(counts["outcomes"][EXPOSURES][day], total)
    write_manifest(part, {**manifest, "shards": shards, "counts": counts, "forgotten": forgotten.digest})
    move_whole(part, folder, "shards", replace=True)
    return total


def _move(outcomes: dict[str, dict[str, int]], rows: int) -> None:
    """Counts rows as forgotten that were joined before."""
    if rows:
        outcomes["joined"][""] -= rows
        if not outcomes["joined"][""]:
            del outcomes["joined"]
        outcomes.setdefault("forgotten", {"": 0})[""] += rows


def _copy_without(source: str, target: str, forgotten: Forgotten, events: Sequence[str]) -> dict[str, Any]:
    """Writes a file without the rows of forgotten users; gives what was left out."""
    removed: dict[str, Any] = {"rows": 0, "labels": dict.fromkeys(events, 0), "counts": dict.fromkeys(events, 0)}
    for _, theirs, columns in _read(source, forgotten, events):
        removed["rows"] += int(theirs.sum())
        for event in events:
            removed["labels"][event] += int(columns[event][theirs].sum())
            removed["counts"][event] += int(columns[count_name(event)][theirs].sum())
    if not removed["rows"]:
        link(source, target)
        return removed
    with tf.io.TFRecordWriter(target) as writer:
        for records, theirs, _ in _read(source, forgotten, ()):
            for record in records[~theirs]:
                writer.write(record)
    return removed


def _read(
    path: str, forgotten: Forgotten, events: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    """Records of a file in batches, which of them are of forgotten users, and the labels and counts of events."""
    integer = tf.io.FixedLenFeature([], tf.int64)
    spec = {USER_ID: tf.io.FixedLenFeature([], tf.string)}
    spec.update({name: integer for event in events for name in (event, count_name(event))})
    with tf.device("CPU:0"):
        for records in tf.data.TFRecordDataset(path).batch(_READ_AT_ONCE):
            parsed = {name: column.numpy() for name, column in tf.io.parse_example(records, spec).items()}
            users = pa.chunked_array([pa.array(parsed.pop(USER_ID), pa.binary()).cast(pa.string())])
            yield records.numpy(), forgotten.mask(users), parsed


def _clean_file(folder: str, users: Collection[str]) -> int:
    """Takes the rejected rows out in which an id of a user stands, whatever the column; gives their number."""
    manifest = read_folder(folder, "rejected")
    assert manifest is not None
    words = re.compile("|".join(rf"(?<!\w){re.escape(user)}(?!\w)" for user in sorted(users)))
    removed = 0
    part = f"{folder}.{uuid.uuid4().hex}"
    rejected = {}
    for name in manifest["rejected"]:
        rows = pq.read_table(os.path.join(folder, name))
        theirs = np.array([bool(words.search(raw or "")) for raw in rows.column("raw").to_pylist()], bool)
        removed += int(theirs.sum())
        if not theirs.all():
            fileio.makedirs(part)
            pq.write_table(rows.filter(pa.array(~theirs)), os.path.join(part, name))
            rejected[name] = int((~theirs).sum())
    if not removed:
        if fileio.exists(part):
            fileio.rmtree(part)
        return 0
    for log in manifest["counts"]["logs"].values():
        for columns in log["rejected"].values():
            for column in columns.values():
                file, row, detail, raw = column["example"]
                if words.search(raw):
                    column["example"] = [file, row, detail.split(", found")[0], ""]
    write_manifest(part, {**manifest, "rejected": rejected})
    move_whole(part, folder, "rejected", replace=True)
    return removed
