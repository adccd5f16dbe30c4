"""Which exposure an event belongs to, and the one outcome of every row.

Pure functions on arrays. Rows are known by an integer `key` that stands for (request_id, item_id)
and by their time in epoch ms; everything else about them does not matter here.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from components.log_example_gen.config import AttributionConfig, LogsConfig, Window
from components.log_example_gen.window import day_start_ms


class Verdict(enum.IntEnum):
    """What became of a row. `outcome` gives the words for it."""

    JOINED = 0
    DUPLICATE = 1
    OTHER_DAYS = 2
    NOT_MATURE = 3
    NO_CAUSE = 4
    BEFORE_CAUSE = 5
    EXPOSURE_OUTSIDE_WINDOW = 6
    EXPOSURE_NOT_MATURE = 7
    AFTER_WINDOW = 8

    def outcome(self, cause: str | None) -> tuple[str, str]:
        """Outcome and reason.

        Args:
          cause: name of the step before, such as 'exposure' for clicks; None for the exposures themselves.
        """
        return {
            Verdict.JOINED: ("joined", ""),
            Verdict.DUPLICATE: ("duplicate", ""),
            Verdict.OTHER_DAYS: ("outside_window", "other_days" if cause else ""),
            Verdict.NOT_MATURE: ("not_mature", ""),
            Verdict.NO_CAUSE: ("orphan", f"no_{cause}"),
            Verdict.BEFORE_CAUSE: ("orphan", f"before_{cause}"),
            Verdict.EXPOSURE_OUTSIDE_WINDOW: ("outside_window", "exposure_outside_window"),
            Verdict.EXPOSURE_NOT_MATURE: ("not_mature", "exposure_not_mature"),
            Verdict.AFTER_WINDOW: ("outside_window", "after_window"),
        }[self]


@dataclass(frozen=True)
class Rules:
    """A window and its attribution, in ms.

    Attributes:
      first, first_eval, end: begin of the first day, of the first evaluation day, and of the day after the last.
      data_end: end of the data: an exposure whose labels are due later is not mature.
      windows: per step, the longest time after its cause.
      skew: an event may precede its cause by this much.
    """

    first: int
    first_eval: int
    end: int
    data_end: int
    windows: tuple[int, ...]
    skew: int

    @property
    def maturity(self) -> int:
        return sum(self.windows) + self.skew


@dataclass(frozen=True)
class Rows:
    """Rows of one log.

    Attributes:
      key: int64 [n] >= 0, equal for rows of the same (request_id, item_id).
      time: int64 [n], epoch ms.
      rank: int64 [n], which of two rows of the same key and time counts: the one with the lower rank.
    """

    key: np.ndarray
    time: np.ndarray
    rank: np.ndarray

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class Attribution:
    """Verdicts, in the order of the rows.

    Attributes:
      exposures: int8 [n] verdicts.
      events: per step, int8 [m] verdicts.
      exposure_of: per step, int64 [m]: the exposure that a joined event belongs to; -1 for the others.
    """

    exposures: np.ndarray
    events: tuple[np.ndarray, ...]
    exposure_of: tuple[np.ndarray, ...]


def rules(logs: LogsConfig, attribution: AttributionConfig, window: Window) -> Rules:
    """The rules of a run."""

    def ms(duration: timedelta) -> int:
        return duration // timedelta(milliseconds=1)

    return Rules(
        first=day_start_ms(logs, window.first_day),
        first_eval=day_start_ms(logs, window.first_eval_day),
        end=day_start_ms(logs, window.last_day + timedelta(days=1)),
        data_end=window.data_end_ms,
        windows=tuple(ms(attribution.windows[event]) for event in logs.events),
        skew=ms(attribution.clock_skew),
    )


def attribute(exposures: Rows, events: Sequence[Rows], rules: Rules) -> Attribution:
    """Gives every row its verdict.

    An exposure counts once per key, the earliest. An event is attributed to the earliest cause of its
    key that it fits: not earlier than the cause by more than the skew and not later by more than the
    window of its step. Causes are the exposures for the first step and the attributed events of the
    step before for the later ones. What is attributed has the outcome of its exposure.
    """
    n = len(exposures)
    first = _first_of(exposures, by_time=False)
    verdicts = np.full(n, Verdict.DUPLICATE, np.int8)
    time = exposures.time[first]
    verdicts[first] = np.select(
        [(time < rules.first) | (time >= rules.end), time + rules.maturity > rules.data_end],
        [Verdict.OTHER_DAYS, Verdict.NOT_MATURE],
        Verdict.JOINED,
    )
    n_keys = 1 + max((int(rows.key.max()) for rows in (exposures, *events) if len(rows)), default=-1)
    exposure_of_key = np.full(n_keys, -1)
    exposure_of_key[exposures.key[first]] = first

    causes = (exposures.key[first], exposures.time[first])
    event_verdicts = []
    exposure_of = []
    for rows, window in zip(events, rules.windows):
        verdict, attributed = _judge(rows, causes, window, exposure_of_key, verdicts, rules)
        causes = (rows.key[attributed], rows.time[attributed])
        event_verdicts.append(verdict)
        exposure_of.append(np.where(verdict == Verdict.JOINED, exposure_of_key[rows.key], -1))
    return Attribution(verdicts, tuple(event_verdicts), tuple(exposure_of))


def _judge(
    rows: Rows,
    causes: tuple[np.ndarray, np.ndarray],
    window: int,
    exposure_of_key: np.ndarray,
    exposure_verdicts: np.ndarray,
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of the events of one step, and the rows among them that are attributed to a cause."""
    verdicts = np.full(len(rows), Verdict.DUPLICATE, np.int8)
    first = _first_of(rows, by_time=True)
    key, time = rows.key[first], rows.time[first]
    any_cause, any_begun, fits = _find_causes(key, time, causes, window, rules.skew)

    exposure = exposure_of_key[key]
    # Of an event without exposure this looks at some other exposure; it has no cause either and is judged before.
    of_exposure = exposure_verdicts[exposure] if len(exposure_verdicts) else np.zeros(len(key), np.int8)
    verdicts[first] = np.select(
        [
            (time < rules.first - rules.skew) | (time > rules.end + rules.maturity),
            ~any_cause,
            ~any_begun,
            of_exposure == Verdict.OTHER_DAYS,
            of_exposure == Verdict.NOT_MATURE,
            ~fits,
        ],
        [
            Verdict.OTHER_DAYS,
            Verdict.NO_CAUSE,
            Verdict.BEFORE_CAUSE,
            Verdict.EXPOSURE_OUTSIDE_WINDOW,
            Verdict.EXPOSURE_NOT_MATURE,
            Verdict.AFTER_WINDOW,
        ],
        Verdict.JOINED,
    )
    return verdicts, first[fits]


def _first_of(rows: Rows, by_time: bool) -> np.ndarray:
    """Rows that count among those of the same key, or of the same key and time; by key and time."""
    order = np.lexsort((rows.rank, rows.time, rows.key))
    key, time = rows.key[order], rows.time[order]
    new = np.ones(len(order), bool)
    new[1:] = key[1:] != key[:-1]
    if by_time:
        new[1:] |= time[1:] != time[:-1]
    return order[new]


def _find_causes(
    key: np.ndarray, time: np.ndarray, causes: tuple[np.ndarray, np.ndarray], window: int, skew: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per event: has its key any cause, any that had begun by then, any in whose window it lies.

    Args:
      causes: key and time, sorted by key and time.
    """
    cause_key, cause_time = causes
    # (key, time) pairs become one integer by the rank of the time, which is small enough not to overflow.
    earliest, latest = time - window, time + skew
    times = np.unique(np.concatenate([cause_time, earliest, latest]))

    def code(k: np.ndarray, t: np.ndarray) -> np.ndarray:
        return k * (len(times) + 1) + np.searchsorted(times, t)

    codes = code(cause_key, cause_time)
    begin = np.searchsorted(codes, key * (len(times) + 1), side="left")
    end = np.searchsorted(codes, (key + 1) * (len(times) + 1), side="left")
    begun = np.searchsorted(codes, code(key, latest), side="right")
    closed = np.searchsorted(codes, code(key, earliest), side="left")
    return end > begin, begun > begin, begun > closed
