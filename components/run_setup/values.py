"""What varies from run to run, as the text that components take for parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date, timedelta

from components.log_example_gen.config import AttributionConfig, LogsConfig, Window, WindowConfig
from components.log_example_gen.window import resolve_window
from models.section import UserError

LATEST = "latest"
"""Last day whose labels are final; a value of the parameter last_day."""

WHOLE_WINDOW = "window"
"""As many days before the last one as the configuration says; a value of the parameter first_day."""

VALUES = (
    "first_day", "first_eval_day", "last_day", "data_end_ms", "window", "inputs_fingerprint", "fingerprint",
    "repository", "checkpoints", "joined_uri",
)  # fmt: skip
"""Keys of `run_values`, and of the outputs of RunSetup."""


def run_values(
    window: Window,
    inputs_fingerprint: str,
    root: str,
    *,
    repository: str | None,
    decided_by: str,
    hyperparameters: Mapping[str, int | float],
) -> dict[str, str]:
    """The values that the components of one run take.

    Args:
      window: the days.
      inputs_fingerprint: changes with any log file that the window reads, and with the list of forgotten users.
      root: folder of everything that the pipeline writes beside its artifacts.
      repository: root of the model repository; `root/models` where it is not given.
      decided_by: changes with the rest of what decides on a new model: configuration and code.
      hyperparameters: those of the run.

    Returns:
      A text for each of `VALUES`. `fingerprint` changes with all that can change the candidate or the verdict on it,
      but for the days.
    """
    decides = json.dumps([decided_by, inputs_fingerprint, dict(sorted(hyperparameters.items()))])
    days = {key: str(value) for key, value in window.model_dump(mode="json").items()}
    return {
        **{key: days[key] for key in ("first_day", "first_eval_day", "last_day", "data_end_ms")},
        "window": window.canonical_json(),
        "inputs_fingerprint": inputs_fingerprint,
        "fingerprint": hashlib.sha256(decides.encode()).hexdigest(),
        "repository": repository or f"{root.rstrip('/')}/models",
        "checkpoints": f"{root.rstrip('/')}/checkpoints",
        "joined_uri": joined_under(root),
    }


def joined_under(root: str) -> str:
    """Folder in which the joined days of a root are kept."""
    return f"{root.rstrip('/')}/joined"


def window_of_run(
    logs: LogsConfig, attribution: AttributionConfig, window: WindowConfig, first_day: str, last_day: str
) -> Window:
    """The window between two days given as text, by looking at the logs.

    Args:
      logs, attribution: of the configuration.
      window: of the configuration; its last day is not read.
      first_day: a day such as 2026-01-01, or `WHOLE_WINDOW`.
      last_day: a day, or `LATEST`.

    Raises:
      UserError: for another text, a first day that leaves nothing to train on, or days without logs.
    """
    last_given = LATEST if last_day == LATEST else _day("last_day", last_day, LATEST)
    window = window.model_copy(update={"last_day": last_given})
    if first_day == WHOLE_WINDOW:
        return resolve_window(logs, attribution, window)
    first = _day("first_day", first_day, WHOLE_WINDOW)
    # One day to train on asks for less than any window, where it is to be found out what the last day is.
    last = resolve_window(logs, attribution, window.model_copy(update={"train_days": 1})).last_day
    train_days = (last - first).days + 1 - window.eval_days
    if train_days < 1:
        latest = last - timedelta(days=window.eval_days)
        raise UserError(
            f"first_day: expected a day up to {latest}, so that a day to train on is left before the "
            f"{window.eval_days} evaluation day(s) that end on {last}, got {first}"
        )
    return resolve_window(logs, attribution, window.model_copy(update={"last_day": last, "train_days": train_days}))


def _day(name: str, text: str, other: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{name}: expected a day such as 2026-01-31, or '{other}', got '{text}'") from None
