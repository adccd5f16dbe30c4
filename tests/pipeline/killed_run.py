"""`seesaw` in a process that kills itself at a given place.

Usage: python killed_run.py training|publish ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from models.runtime import prepare_process


def kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


def kill_in_training() -> None:
    """At the end of the third batch."""
    from components.trainer.record import TrainingRecord

    observe = TrainingRecord.after_step

    def after_step(self: TrainingRecord) -> None:
        observe(self)
        if self.steps == 3:
            kill()

    TrainingRecord.after_step = after_step  # type: ignore[method-assign]


def kill_in_publish() -> None:
    """When the new version is in its place, and the labels are not yet."""
    replace = os.replace

    def dying_replace(source: str, target: str) -> None:
        if os.path.basename(target) == "labels.json":
            kill()
        replace(source, target)

    os.replace = dying_replace  # type: ignore[assignment]


def main() -> None:
    prepare_process(verbose=True)
    where, *arguments = sys.argv[1:]
    {"training": kill_in_training, "publish": kill_in_publish}[where]()
    from pipeline.cli import app

    app(arguments)


if __name__ == "__main__":
    main()
