from __future__ import annotations

import io

from rich.console import Console

from pipeline.progress import ComponentRun, LiveTable, PlainLines, reporter_for

NAMES = ["LogExampleGen", "Trainer", "Promotion"]


def told(terminal: bool, width: int = 80) -> str:
    stream = io.StringIO()
    reporter = reporter_for(Console(file=stream, force_terminal=terminal, width=width, color_system=None))
    assert isinstance(reporter, LiveTable if terminal else PlainLines)
    reporter.start(NAMES)
    for run in (
        ComponentRun("LogExampleGen", "running"),
        ComponentRun("LogExampleGen", "cached", 0.04),
        ComponentRun("Trainer", "running"),
        ComponentRun("Trainer", "failed", 61.26),
        ComponentRun("Promotion", "not run"),
    ):
        reporter.update(run)
    reporter.finish()
    return stream.getvalue()


def test_plain_lines():
    assert told(terminal=False) == (
        "[ 1/3] LogExampleGen            running\n"
        "[ 1/3] LogExampleGen            cached      0.0 s\n"
        "[ 2/3] Trainer                  running\n"
        "[ 2/3] Trainer                  failed     61.3 s\n"
        "[ 3/3] Promotion                not run\n"
    )


def test_live_table_ends_with_the_final_states():
    # The last drawing follows the last time the cursor goes up.
    last = told(terminal=True).rpartition("component")[2]
    rows = [line.split() for line in last.splitlines()[1:4]]
    assert rows == [["LogExampleGen", "cached", "0.0"], ["Trainer", "failed", "61.3"], ["Promotion", "not", "run"]]
