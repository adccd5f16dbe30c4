"""What the contenders of log_join.py share: the logs, the rules of the join, the clock. Needs nothing but Python.

Each contender is a script that runs in an environment of its own, as `python log_join_NAME.py TASK.json`: it joins
the logs that the task names and writes how long that took.

The rules: a click counts within 30 minutes after its exposure, a purchase within a day after the first such click.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

CLICK_WINDOW_MS = 30 * 60_000
PURCHASE_WINDOW_MS = 24 * 3_600_000

KEYS = ("request_id", "item_id", "user_id", "time")
IDS = ("position", "device", "country", "category", "seller", "page")
NUMBERS = ("price", "discount", "rating", "age_days", "score")
"""The 15 columns of the exposures; clicks have request_id, item_id and time, purchases an amount as well."""


@dataclass(frozen=True)
class Task:
    """One run of one contender.

    Attributes:
      logs: folder of the logs, with exposures/, clicks/ and purchases/, files as DAY/part-N.FORMAT in each.
      form: parquet or csv.
      first_day, last_day: days of exposures, such as 2026-01-01.
      out: folder to write to.
      output: tfrecord or parquet.
      beam: flags of Beam; the default ones where empty.
      result: where to write the measurements.
    """

    logs: str
    form: str
    first_day: str
    last_day: str
    out: str
    output: str
    beam: list[str]
    result: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def files(self, log: str) -> list[str]:
        """Files of a log; of exposures those of the days to join."""
        files = sorted(Path(self.logs).glob(f"{log}/*/*.{self.form}"))
        return [str(f) for f in files if log != "exposures" or self.first_day <= f.parent.name <= self.last_day]


def main(join: Callable[[Task], None]) -> None:
    """Runs a contender: times the join, and nothing that comes before it."""
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    before = _cpu()
    start = time.perf_counter()
    join(task)
    seconds = time.perf_counter() - start
    Path(task.result).write_text(json.dumps({"wall": seconds, "cpu": _cpu() - before}))


def _cpu() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)
