"""Who runs, who waits and who is sent away."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager

from grpc import StatusCode

from serving.server.errors import ServingError


class Admission:
    """Lets `running` requests run at a time and `waiting` others wait, first come first served.

    Args:
      running: requests that run at a time.
      waiting: requests that may wait for their turn.
    """

    def __init__(self, running: int, waiting: int):
        self._free = running
        self._most = waiting
        self._places = threading.BoundedSemaphore(running + waiting)
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @contextmanager
    def turn(self, seconds: float | None = None):
        """Waits for its turn, no longer than so many seconds.

        Raises:
          ServingError: UNAVAILABLE, as TF Serving's batching answers, where too many wait; DEADLINE_EXCEEDED.
        """
        self._begin(seconds)
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def place(self):
        """Bounds the requests that run or wait where not all of them wait for a turn, as in a batch.

        Raises:
          ServingError: UNAVAILABLE where too many do.
        """
        if not self._places.acquire(blocking=False):
            raise self._full()
        try:
            yield
        finally:
            self._places.release()

    def _full(self) -> ServingError:
        return ServingError(
            StatusCode.UNAVAILABLE, f"The queue of requests is full: {self._most} are waiting; try again later"
        )

    def _begin(self, seconds: float | None) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._queue) >= self._most:
                raise self._full()
            turn = threading.Event()
            self._queue.append(turn)
        deadline = None if seconds is None else time.monotonic() + seconds
        if turn.wait(None if deadline is None else max(deadline - time.monotonic(), 0)):
            return
        with self._lock:
            if not turn.is_set():
                self._queue.remove(turn)
                raise ServingError(StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded while the request waited")
        # Its turn came in the last moment.

    def _end(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1
