"""The folder of a run: who may write under a root at a time, and where a run's logs go."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import io
import json
import logging
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from models.section import UserError

LOCK_FILE = "run.lock"


class RootInUse(UserError):
    """Another run holds the root."""


class RunFolder:
    """One run under a root: its id, the folder of its logs, and the lock that keeps other runs out.

    Use it as a context manager. The lock is the kernel's, so it ends with the process, however that ends.

    Attributes:
      root: the pipeline's root, absolute.
      run_id: names the run in the logs and in ML Metadata, such as '2026-01-31T08-15-00.123'.
      logs: ROOT/logs/RUN_ID.

    Raises:
      RootInUse: on entering, if another process runs on the same root; names its pid.
      UserError: on entering, if the root cannot be written.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().resolve()
        self.run_id = datetime.now().isoformat(timespec="milliseconds").replace(":", "-")
        self.logs = self.root / "logs" / self.run_id
        self._lock: IO[str] | None = None

    @property
    def run_log(self) -> Path:
        return self.logs / "run.log"

    @property
    def error_file(self) -> Path:
        return self.logs / "error.txt"

    def write_error(self, error: BaseException) -> None:
        """Writes the traceback to `error_file`, or nothing where the disk is full."""
        with contextlib.suppress(OSError):
            self.error_file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")

    def __enter__(self) -> RunFolder:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = open(self.root / LOCK_FILE, "a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.root}: expected a folder that can be written, got: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                raise RootInUse(_who_holds(self.root, lock)) from None
        lock.seek(0)
        lock.truncate()
        json.dump({"pid": os.getpid(), "run": self.run_id}, lock)
        lock.flush()
        self._lock = lock
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        # The file stays: removing it would let a third run lock a new file while a second holds the old one.
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _who_holds(root: Path, lock: IO[str]) -> str:
    lock.seek(0)
    try:
        holder = json.load(lock)
        who = f"process {holder['pid']}, run {holder['run']}"
    except (ValueError, KeyError):
        who = "its process id is not written yet"
    return f"{root}: another run is using this root ({who}); wait for it to end, or give another --root"


@contextlib.contextmanager
def captured_output(path: Path, *, verbose: bool = False) -> Iterator[IO[str]]:
    """Sends everything that this process prints into a file and gives a stream to the real standard output.

    Libraries print from Python, from C++ and from child processes, so the file descriptors 1 and 2 themselves are
    redirected. Python's logging, from INFO on, and warnings go to the same file. So does what destructors print while
    the interpreter goes down: TensorFlow 2.16 has some that fail then.

    Args:
      path: file to append to; its folder must exist.
      verbose: print it all on standard error too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    tee = None
    if verbose:
        # A process and not a thread: a thread would deadlock with C++ code that prints while it holds the GIL.
        tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE, stdout=err)
        assert tee.stdin is not None
        target = os.dup(tee.stdin.fileno())
        tee.stdin.close()
    else:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    stream, owned = _stream_to(out)
    with contextlib.ExitStack() as restore:
        if _writes_to(sys.stdout, 1):
            stdout = cast(io.TextIOWrapper, sys.stdout)
            restore.callback(stdout.reconfigure, line_buffering=stdout.line_buffering)
            stdout.reconfigure(line_buffering=True)
        log = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
        restore.enter_context(log)
        if not owned:
            restore.enter_context(contextlib.redirect_stdout(log))
            restore.enter_context(contextlib.redirect_stderr(log))
        restore.enter_context(_logging_to(log))
        try:
            yield stream
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            stream.flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
            if owned:
                stream.close()
            else:
                os.close(out)
            os.close(err)
    if tee is None:
        atexit.register(_redirect_errors, path)
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            tee.wait(timeout=2)  # a child process that outlives the run may hold the pipe open


def _redirect_errors(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "ab") as file:
        os.dup2(file.fileno(), 2)


def _writes_to(stream: Any, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, io.UnsupportedOperation, ValueError, OSError):
        return False


def _stream_to(descriptor: int) -> tuple[IO[str], bool]:
    """The stream that the user reads, and whether it is new: in tests sys.stdout is not file descriptor 1."""
    if not _writes_to(sys.stdout, 1):
        return sys.stdout, False
    return os.fdopen(descriptor, "w", encoding=sys.stdout.encoding, errors="replace", buffering=1), True


@contextlib.contextmanager
def _logging_to(log: IO[str]) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
