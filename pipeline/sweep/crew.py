"""Carries out trainings in worker processes: those that are done already are kept, and a failure stops only itself."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sweep.training import SweepTraining
from pipeline.sweep.worker import RESULT

_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    Attributes:
      done, failed, total: numbers of trainings; `done` counts those that were there before.
      seconds: since the work began.
      left: estimate of the seconds that are left, None before the first training has ended.
      last: the training that ended last, None at the start.
      error: why that one failed, None where it did not.
    """

    done: int
    failed: int
    total: int
    seconds: float
    left: float | None
    last: str | None = None
    error: str | None = None


def is_done(folder: Path, key: str) -> bool:
    return (folder / RESULT.format(key=key)).exists()


def read_result(folder: Path, key: str) -> dict[str, Any]:
    return json.loads((folder / RESULT.format(key=key)).read_text(encoding="utf-8"))


class Crew:
    """Worker processes that wait for trainings.

    Args:
      rows: folder of the rows.
      folder: folder of the results.
      workers: trainings at a time; the cores are shared out among them.
      tell: is told of every training that ends.

    Attributes:
      failures: names of trainings, and why they failed.
    """

    def __init__(self, rows: Path, folder: Path, *, workers: int, tell: Callable[[Progress], None]):
        folder.mkdir(parents=True, exist_ok=True)
        self._rows, self._folder, self._tell = rows, folder, tell
        self._started = time.monotonic()
        self._took: list[float] = []
        self._done = 0
        self._total = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._processes: list[subprocess.Popen[str] | None] = [None] * workers
        self.failures: list[tuple[str, str]] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopped = True
            processes = [process for process in self._processes if process is not None]
        for process in processes:
            process.kill()
            process.wait()

    def work(self, trainings: Mapping[str, tuple[SweepTraining, str]], later: int = 0) -> None:
        """Carries out the trainings of which there is no result yet.

        Args:
          trainings: by their key, each with a name.
          later: how many will be given later, for the estimate of the time left.
        """
        left: queue.SimpleQueue[str] = queue.SimpleQueue()
        waiting = [key for key in trainings if not is_done(self._folder, key)]
        for key in waiting:
            left.put(key)
        self._total = self._done + len(self.failures) + len(trainings) + later
        if len(waiting) < len(trainings):
            self._done += len(trainings) - len(waiting)
            self._tell(self._progress())
        threads = [
            threading.Thread(target=self._keep_busy, args=(place, left, trainings), daemon=True)
            for place in range(min(len(self._processes), len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # so that Ctrl-C is seen

    def _keep_busy(
        self, place: int, left: queue.SimpleQueue[str], trainings: Mapping[str, tuple[SweepTraining, str]]
    ) -> None:
        while True:
            try:
                key = left.get_nowait()
            except queue.Empty:
                return
            with self._lock:
                if self._stopped:
                    return
                process = self._processes[place]
                if process is None or process.poll() is not None:
                    process = self._processes[place] = self._start()
            training, name = trainings[key]
            began = time.monotonic()
            error = _ask(process, key, training)
            with self._lock:
                if self._stopped:
                    return
                self._took.append(time.monotonic() - began)
                if error is None:
                    self._done += 1
                else:
                    self.failures.append((name, error))
                self._tell(self._progress(name, error))

    def _start(self) -> subprocess.Popen[str]:
        threads = max(1, (os.cpu_count() or 1) // len(self._processes))
        command = [sys.executable, "-m", "pipeline.sweep.worker", str(self._rows), str(self._folder), str(threads)]
        path = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def _progress(self, last: str | None = None, error: str | None = None) -> Progress:
        ended = self._done + len(self.failures)
        left = None
        if self._took:
            left = (self._total - ended) * sum(self._took) / len(self._took) / len(self._processes)
        seconds = time.monotonic() - self._started
        return Progress(self._done, len(self.failures), self._total, seconds, left, last, error)


def _ask(process: subprocess.Popen[str], key: str, training: SweepTraining) -> str | None:
    """Has a worker carry out a training; why it failed, None where it did not."""
    assert process.stdin is not None and process.stdout is not None
    try:
        print(json.dumps({"key": key, "training": training.model_dump(mode="json")}), file=process.stdin, flush=True)
        line = process.stdout.readline()
    except OSError:
        line = ""
    if line:
        return json.loads(line)["error"]
    code = process.wait()
    return f"the worker ended with exit code {code}" + (" (killed, perhaps for memory)" if code == -9 else "")
