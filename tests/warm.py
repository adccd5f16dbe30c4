"""Processes that find TensorFlow, Beam and TFX imported: forks of one that has done nothing else.

A Python that starts from nothing takes seven seconds of a core for these imports. What belongs to this repository,
but for models.runtime, is imported by each process itself.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPOSITORY = Path(__file__).parents[1]


class WarmPython:
    """Runs commands of Python one at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` gives of ['python', '-m', MODULE, …] or ['python', SCRIPT, …], its output captured."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.warm"], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        with TemporaryDirectory() as folder:
            printed = [Path(folder, name) for name in ("stdout", "stderr")]
            job = {"command": list(command), "env": dict(env), "cwd": str(cwd), "printed": [str(p) for p in printed]}
            try:
                print(json.dumps(job), file=self._server.stdin, flush=True)
                code = int(self._server.stdout.readline())
            except BaseException:  # a test's time is over, too: what answers later is not the next one's
                self.close()
                raise
            stdout, stderr = (p.read_text(errors="replace") for p in printed)
        return subprocess.CompletedProcess(job["command"], code, stdout, stderr)

    def close(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    python = WarmPython()
    yield python
    python.close()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from models.runtime import prepare_process

    prepare_process()
    import tensorflow_data_validation  # noqa: F401
    import tensorflow_model_analysis  # noqa: F401
    from tfx import v1  # noqa: F401
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(**json.loads(line))
            return  # as a process that ran this from the start would end
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def become(command: list[str], env: dict[str, str], cwd: str, printed: list[str]) -> None:
    """Does in this process what a new one would do."""
    for descriptor, path in enumerate([os.devnull, *printed]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    path = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p]
    if command[1] == "-m":
        sys.path[:1] = [cwd, *path]
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.path[:1] = [str(Path(command[1]).parent), *path]
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name="__main__")


if __name__ == "__main__":
    main()
