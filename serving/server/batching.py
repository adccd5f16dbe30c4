"""Joins small requests that come at about the same time into one call of the model, as TF Serving's batching does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from grpc import StatusCode

from serving.server.errors import ServingError

Arrays = Mapping[str, np.ndarray]
Call = Callable[[Arrays, "float | None"], Arrays]
"""Runs the model on inputs; the second argument is how many seconds there are to wait for a turn, None for any."""


class Batching:
    """Rows of several requests in one call. Each request gets the rows of its own, or its own error.

    The first request of a batch waits for others, so long or until the batch is full, and runs it. Text lists of
    different lengths are padded with empty text, which is a missing value. If a joined call fails, every request is
    run by itself, so that one cannot spoil the others.

    Args:
      max_batch_size: rows of a batch; a request of as many or more goes alone.
      timeout_micros: how long a batch waits to be filled, in microseconds.
    """

    def __init__(self, max_batch_size: int, timeout_micros: int):
        self._most = max_batch_size
        self._timeout = timeout_micros / 1e6
        self._open: dict[Hashable, _Batch] = {}
        self._lock = threading.Lock()

    def run(self, kind: Hashable, inputs: Arrays, call: Call, seconds: float | None = None) -> Arrays:
        """Runs the model on a request's inputs, [rows, ...] each.

        Args:
          kind: requests of the same kind may be joined: version, signature and outputs.
          inputs: by name, with the same number of rows.
          call: runs the model; that of the first request of a batch is used.
          seconds: how long the caller waits.

        Raises:
          ServingError: what `call` raised for this request; DEADLINE_EXCEEDED.
        """
        rows = len(next(iter(inputs.values())))
        if not 0 < rows < self._most:
            return call(inputs, seconds)
        shapes = tuple((n, v.dtype.kind, 0 if _padded(v) else v.shape[1:]) for n, v in sorted(inputs.items()))
        place = (kind, shapes)
        with self._lock:
            batch = self._open.get(place)
            first = batch is None or batch.rows + rows > self._most
            if first:
                # One that has no room for this request is run with what it has.
                if batch is not None:
                    batch.full.set()
                batch = self._open[place] = _Batch()
            assert batch is not None
            number = batch.add(inputs, rows, seconds)
            if batch.rows == self._most:
                batch.full.set()
        if first:
            batch.full.wait(self._timeout)
            with self._lock:
                if self._open.get(place) is batch:
                    del self._open[place]
            batch.run(call)
        elif not batch.done.wait(seconds):
            raise ServingError(StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded while the request's batch waited")
        return batch.answer(number)


class _Batch:
    """Requests that are run together."""

    def __init__(self) -> None:
        self.rows = 0
        self.full = threading.Event()
        self.done = threading.Event()
        self._inputs: list[Arrays] = []
        self._sizes: list[int] = []
        self._seconds: list[float | None] = []
        self._answers: list[Arrays | Exception] = []

    def add(self, inputs: Arrays, rows: int, seconds: float | None) -> int:
        self._inputs.append(inputs)
        self._sizes.append(rows)
        self._seconds.append(seconds)
        self.rows += rows
        return len(self._inputs) - 1

    def run(self, call: Call) -> None:
        try:
            self._answers = self._together(call) if len(self._inputs) > 1 else self._alone(call)
        except Exception:
            self._answers = self._alone(call)
        finally:
            self.done.set()

    def answer(self, number: int) -> Arrays:
        found = self._answers[number]
        if isinstance(found, Exception):
            raise found
        return found

    def _together(self, call: Call) -> list[Arrays | Exception]:
        longest = None if None in self._seconds else max(s for s in self._seconds if s is not None)
        joined = {name: _joined([inputs[name] for inputs in self._inputs]) for name in self._inputs[0]}
        outputs = call(joined, longest)
        cuts = np.cumsum(self._sizes)
        for name, values in outputs.items():
            if values.shape[:1] != (cuts[-1],):
                raise ValueError(f"output '{name}' has shape {values.shape} for {cuts[-1]} rows")
        parts = {name: np.split(values, cuts[:-1]) for name, values in outputs.items()}
        return [{name: parts[name][i] for name in outputs} for i in range(len(self._sizes))]

    def _alone(self, call: Call) -> list[Arrays | Exception]:
        answers: list[Arrays | Exception] = []
        for inputs, seconds in zip(self._inputs, self._seconds):
            try:
                answers.append(call(inputs, seconds))
            except Exception as error:
                answers.append(error)
        return answers


def _padded(values: np.ndarray) -> bool:
    """Whether rows are lists of text, whose length may be made longer."""
    return values.dtype == object and values.ndim == 2


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if not _padded(parts[0]):
        return np.concatenate(parts)
    joined = np.full((sum(map(len, parts)), max(p.shape[1] for p in parts)), b"", dtype=object)
    at = 0
    for part in parts:
        joined[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return joined
