"""A log of what was served, in the form of an exposure log: the rows that a model scored, and their scores."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from models.section import UserError

REQUEST_ID = "request_id"
TIME = "time"
VERSION = "model_version"
SIGNATURE = "signature"
POSITION = "served_position"
SCORE = "served_"
"""Before the name of an output, such as served_pctr."""

REQUEST_HEADER = "x-request-id"
"""Header, or gRPC metadata, with the id of a request; one is made up for requests without it."""

ORDER = "order"
_LOG = logging.getLogger(__name__)

Value = Any
"""A column as the server or the client has it: a serialized TensorProto, an array, a list of bytes or of such lists."""


@dataclass(frozen=True)
class Served:
    """A request that was answered.

    Attributes:
      version: version of the model that answered; None where REST does not tell.
      signature: the signature, rank or predict.
      inputs: by feature; of one row or of as many as there are scores.
      outputs: by name, [rows]; 'order' gives the places.
      request_id: what the rows have in common.
      columns: the log's column of a feature, where it has another name.
      time_ms: when, ms since 1970.
    """

    version: int | None
    signature: str
    inputs: Mapping[str, Value]
    outputs: Mapping[str, np.ndarray]
    request_id: str
    columns: Mapping[str, str]
    time_ms: int


class ServedLog:
    """Writes answered requests to Parquet files that the join reads as exposures; a context manager.

    A file is `FOLDER/YYYY-MM-DD/HH-....parquet`: patterns '{date}/*.parquet' and '{date}/{hour}-*.parquet' find it.
    It is written aside and renamed, so that a reader meets it whole. A row has request_id, time (ms), the features as
    they were sent (in the columns that the exposure log has them in), `served_pctr` and so on, `served_position` (the
    place by the answer's order, from 1), `model_version` and `signature`.

    Requests are handed to a thread of its own. If that falls behind, requests are left out and counted: serving does
    not wait for its log.

    Args:
      folder: where the files go.
      seconds: a file has the requests of so long a time, at most.
      rows: and about so many rows, at most.
      timezone: of the days and hours in the files' names: `logs.timezone` of who reads them.
      columns: the log's column of a feature, where it has another name; the embedded server knows them from the model.
      waiting: requests that may wait for the thread.

    Raises:
      UserError: if the folder cannot be made, or there is no such time zone.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        seconds: float = 60.0,
        rows: int = 200_000,
        timezone: str = "UTC",
        columns: Mapping[str, str] | None = None,
        waiting: int = 1000,
    ):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: the log of what is served cannot be written there: {error.strerror}") from None
        try:
            self._zone = zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise UserError(f"timezone: expected a name such as 'Europe/Berlin', got '{timezone}'") from None
        self.columns = dict(columns or {})
        self.left_out = 0
        """Requests that are not in the log: the thread fell behind, or the disk was full."""
        self._seconds, self._rows = seconds, rows
        self._queue: queue.Queue[Served | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._write, daemon=True, name="served-log")
        self._thread.start()

    def __enter__(self) -> ServedLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is left."""
        self._queue.put(None)
        self._thread.join()

    def add(
        self,
        version: int | None,
        signature: str,
        inputs: Mapping[str, Value],
        outputs: Mapping[str, np.ndarray],
        request_id: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Hands over an answered request; never waits. Arguments are those of `Served`."""
        served = Served(
            version,
            signature,
            inputs,
            outputs,
            request_id or uuid.uuid4().hex,
            self.columns if columns is None else columns,
            time.time_ns() // 1_000_000,
        )
        try:
            self._queue.put_nowait(served)
        except queue.Full:
            self.left_out += 1

    def _write(self) -> None:
        held: list[Served] = []
        rows, due, over = 0, float("inf"), False
        while not over:
            try:
                served = self._queue.get(timeout=max(0.0, min(due - time.monotonic(), self._seconds)))
                over = served is None
                if served is not None:
                    due = min(due, time.monotonic() + self._seconds)
                    held.append(served)
                    rows += _rows(served)
            except queue.Empty:
                pass
            if held and (over or rows >= self._rows or time.monotonic() >= due):
                self._flush(held)
                held, rows, due = [], 0, float("inf")

    def _flush(self, held: Sequence[Served]) -> None:
        files: dict[tuple[str, pa.Schema], list[pa.Table]] = {}
        for served in held:
            try:
                rows = table(served)
            except Exception:  # a request that cannot be written must not cost the others
                _LOG.exception("a served request cannot be logged")
                self.left_out += 1
                continue
            hour = datetime.fromtimestamp(served.time_ms / 1000, self._zone).strftime("%Y-%m-%d/%H")
            files.setdefault((hour, rows.schema), []).append(rows)
        for (hour, _), tables in files.items():
            path = self.folder / f"{hour}-{uuid.uuid4().hex}.parquet"
            aside = path.with_suffix(".part")
            try:
                path.parent.mkdir(exist_ok=True)
                pq.write_table(pa.concat_tables(tables), aside)
                os.replace(aside, path)
            except OSError as error:
                _LOG.error("%s cannot be written: %s", path, error)
                self.left_out += len(tables)
                aside.unlink(missing_ok=True)


def table(served: Served) -> pa.Table:
    """The rows of a request."""
    n = _rows(served)
    columns: dict[str, pa.Array] = {
        REQUEST_ID: _repeated(pa.array([served.request_id]), n),
        TIME: _repeated(pa.array([served.time_ms]), n),
    }
    for name, value in sorted(served.inputs.items()):
        # Features of one column are the same value in different forms.
        columns.setdefault(served.columns.get(name, name), _repeated(_column(value), n))
    for name, scores in sorted(served.outputs.items()):
        if name == ORDER:
            places = np.empty(n, np.int32)
            places[scores] = np.arange(1, n + 1, dtype=np.int32)
            columns[POSITION] = pa.array(places)
        else:
            columns[SCORE + name] = pa.array(np.asarray(scores, np.float32))
    columns[VERSION] = _repeated(pa.array([served.version], pa.int64()), n)
    columns[SIGNATURE] = _repeated(pa.array([served.signature]), n)
    return pa.table(columns)


def _rows(served: Served) -> int:
    return len(next(iter(served.outputs.values())))


def _column(value: Value) -> pa.Array:
    """Values with null for what is missing: NaN, empty text, and an empty text in a list."""
    if isinstance(value, bytes):
        value = tf.make_ndarray(tensor_pb2.TensorProto.FromString(value))
    array = np.asarray(value) if not isinstance(value, list) else value
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        return pa.array(array, from_pandas=True)
    if len(array) and isinstance(array[0], (list, np.ndarray)):
        words = pa.array([w for row in array for w in row if w], pa.binary())
        ends = np.cumsum([0, *(sum(map(bool, row)) for row in array)])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), words.cast(pa.string()))
    texts = pa.array(list(array), pa.binary()).cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _repeated(column: pa.Array, rows: int) -> pa.Array:
    return column if len(column) == rows else column.take(pa.array(np.zeros(rows, np.int32)))
