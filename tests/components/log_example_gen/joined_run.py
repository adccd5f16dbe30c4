"""LogExampleGen in a process of its own, which may be killed at a given place or have a worker of its killed.

Usage: python joined_run.py FOLDER OUT PLACE [FLAG...], with logs in FOLDER/logs and joined days in FOLDER/joined.
PLACE is none, bucket, commit, starting-worker or working-worker.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.runtime import prepare_process


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def kill_after(owner: Any, name: str, calls: int) -> None:
    """Kills this process at the end of a call of a function."""
    function = getattr(owner, name)
    made = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        result = function(*args, **kwargs)
        made += 1
        if made == calls:
            kill(os.getpid())
        return result

    setattr(owner, name, dying)


def kill_worker(ready: Callable[[], bool]) -> None:
    """Kills a worker process when there are two of them and all is ready for it."""
    from components.log_example_gen.workers import worker_processes

    # Often: what is left to do when a worker is at work takes a second.
    while not ready() or len(found := worker_processes()) < 2:
        time.sleep(0.02)
    kill(found[0])


def main() -> None:
    prepare_process()
    folder, out, place, *flags = sys.argv[1:]
    sys.argv = sys.argv[:1]
    # First the tests: a library has a package of that name as well.
    from tests.components.log_example_gen.log_files import attribution_config, logs_config, run_executor, window_of_days

    from components.log_example_gen import days, joining  # isort: skip

    if place == "bucket":
        kill_after(joining, "read_bucket", 3)
    elif place == "commit":
        kill_after(days.JoinedDays, "put", 1)
    elif place.endswith("worker"):
        spilled = Path(folder) / out / "report/partial"
        ready = (lambda: any(spilled.rglob("*.arrow"))) if place == "working-worker" else (lambda: True)
        threading.Thread(target=kill_worker, args=(ready,), daemon=True).start()
    run_executor(
        Path(folder) / out,
        logs_config(Path(folder) / "logs", "csv"),
        (),
        window_of_days("2026-01-03", "2026-01-06", "2026-01-06", "2026-01-31"),
        attribution_config("30m", "2h"),
        joined=Path(folder) / "joined",
        flags=flags,
    )


if __name__ == "__main__":
    main()
