"""A model in a process of its own, which has neither TensorFlow's Python nor anything of the process that made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from serving.native import NativeError, NativeModel, NativeSignature

_ROOT = Path(__file__).resolve().parents[1]
_WORDS = 2000  # of what a process said before it died


class FreshProcessError(Exception):
    """The process died or did not answer in time."""


class FreshModel:
    """A SavedModel that a fresh process has loaded by the C++ loader; a context manager.

    Args:
      library: path of TensorFlow's shared library (`serving.native.LIBRARY`).
      folder: the SavedModel.
      signatures: of the model, by name.
      timeout: seconds that an answer may take.

    Attributes:
      seconds: that loading took, without that of the library.

    Raises:
      NativeError: if the library refuses the model, with its text.
      FreshProcessError: if the process dies or does not answer.
    """

    def __init__(
        self,
        library: str | Path,
        folder: str | Path,
        signatures: Mapping[str, NativeSignature],
        *,
        timeout: float = 300.0,
    ):
        self._timeout = timeout
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._connection, of_child = Pipe()
        with of_child:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.fresh_process", str(of_child.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[of_child.fileno()],
                env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            )
        try:
            self.seconds: float = self._ask("load", str(library), str(folder), dict(signatures))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FreshModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a signature; see `serving.native.NativeModel.run`."""
        return self._ask("run", signature, dict(inputs))

    def time(self, signature: str, inputs: Mapping[str, np.ndarray], *, runs: int, seconds: float) -> np.ndarray:
        """Seconds [runs] that each of some equal requests took, after some that do not count.

        Args:
          signature: its name.
          inputs: of the request.
          runs: at most so many.
          seconds: no more are begun after this time, but for the first five.
        """
        return self._ask("time", signature, dict(inputs), runs, seconds)

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _ask(self, *question: Any) -> Any:
        try:
            self._connection.send(question)
            if not self._connection.poll(self._timeout):
                raise FreshProcessError(f"no answer to '{question[0]}' within {self._timeout:g} s{self._words()}")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> FreshProcessError:
        code = self._process.wait()
        how = f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return FreshProcessError(f"the process that loads the model ended {how}{self._words()}")

    def _words(self) -> str:
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip()[-_WORDS:]
        return f"; its last words: {words}" if words else ""


def _serve(connection: Connection) -> None:
    model: NativeModel | None = None
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        try:
            if what == "load":
                begin = time.perf_counter()
                model = NativeModel(*arguments)
                answer: Any = time.perf_counter() - begin
            else:
                assert model is not None
                answer = model.run(*arguments) if what == "run" else _time(model, *arguments)
        except NativeError as error:
            answer = error
        connection.send(answer)


def _time(model: NativeModel, signature: str, inputs: dict[str, np.ndarray], runs: int, seconds: float) -> np.ndarray:
    for _ in range(3):
        model.run(signature, inputs)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < runs and (len(taken) < 5 or time.perf_counter() < end):
        begin = time.perf_counter()
        model.run(signature, inputs)
        taken.append(time.perf_counter() - begin)
    return np.array(taken)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
