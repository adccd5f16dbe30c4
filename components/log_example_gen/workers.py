"""Ends a Beam pipeline whose worker process has died: Beam's in-process runner would wait for it forever."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from models.section import UserError

_MODULE = "apache_beam.runners.worker.sdk_worker_main"
_DIED = "Worker subprocess exited"
_LOST = "Channel closed prematurely"
_MESSAGE = (
    "a worker process of Beam was ended from outside, by hand or for want of memory: run again, what is whole is kept; "
    "a smaller join.memory_gib or fewer workers take less memory"
)


class WorkerDied(UserError):
    """A worker process was killed."""


@contextlib.contextmanager
def deaths_raised() -> Iterator[None]:
    """Raises WorkerDied where a worker process of the pipeline that runs in the block ends before its time.

    Beam sees the end of a worker in a thread of its own, whose error nobody reads; only a worker that is in the middle
    of a task is missed. Here that error becomes a signal to the main thread. The other workers are ended as well, as
    Beam waits for them before it gives up.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:  # only the main thread gets signals
        yield
        return
    heard = threading.Event()

    def listen(args: threading.ExceptHookArgs) -> None:
        if _DIED not in str(args.exc_value):
            before_hook(args)
        elif not heard.is_set():
            heard.set()
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    def died(number: int, frame: FrameType | None) -> None:
        for process in worker_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        raise WorkerDied(_MESSAGE)

    before_hook, threading.excepthook = threading.excepthook, listen
    before = signal.signal(signal.SIGUSR1, died)
    try:
        yield
    except RuntimeError as error:
        if _LOST in str(error):
            raise WorkerDied(_MESSAGE) from error
        raise
    finally:
        heard.set()
        threading.excepthook = before_hook
        signal.signal(signal.SIGUSR1, before)


def worker_processes() -> list[int]:
    """Beam's worker processes among the descendants of this process."""
    parents: dict[int, int] = {}
    workers: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if _MODULE in (entry / "cmdline").read_text().split("\0"):
                    workers.add(int(entry.name))
    ours = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sorted(workers & ours)
