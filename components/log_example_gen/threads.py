"""A DoFn that works on several elements of a bundle at once, for runners that hand them over one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue


class ThreadedDoFn(beam.DoFn):
    """Gives what `work` gives for each element, in the global window.

    Threads gain where the work is done by Arrow and NumPy, which let go of Python's lock.

    Args:
      threads: elements at once; with 1 no thread is started.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._running: list[Future[list[Any]]] = []

    def work(self, element: Any) -> Iterable[Any]:
        """What an element gives: little, as that of all elements of a bundle is held in memory."""
        raise NotImplementedError

    def start_bundle(self) -> None:
        self._running = []

    def process(self, element: Any) -> Iterable[Any]:
        if self._threads == 1:
            return self.work(element)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        self._running.append(self._pool.submit(lambda: list(self.work(element))))
        return ()

    def finish_bundle(self) -> Iterator[Any]:
        try:
            for future in self._running:
                for result in future.result():
                    yield _in_global_window(result)
        finally:
            self._stop()

    def teardown(self) -> None:
        self._stop()

    def _stop(self) -> None:
        """Waits for the elements in work, after an error too: what they write must not appear later."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _in_global_window(result: Any) -> Any:
    if isinstance(result, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(result.tag, _in_global_window(result.value))
    return WindowedValue(result, MIN_TIMESTAMP, [GlobalWindow()])
