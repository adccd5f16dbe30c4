"""Which exposure an event belongs to, and the one outcome of every row.

Pure functions on arrays. Rows are known by integer keys and by their time in epoch ms; everything else
about them does not matter here. What becomes of a row depends only on rows within `Rules.look_back` before
it and `Rules.look_ahead` after it, so that days can be joined apart from each other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np

from components.log_example_gen.config import NEAR, REPEAT, AttributionConfig, LogsConfig, SamplingConfig, Touch
from components.log_example_gen.local_days import day_numbers
from components.log_example_gen.sampling import Sampling

_REPEAT_MS, _NEAR_MS = (duration // timedelta(milliseconds=1) for duration in (REPEAT, NEAR))


class Verdict(enum.IntEnum):
    """What became of a row. `outcome` gives the words for it."""

    JOINED = 0
    DUPLICATE = 1
    OTHER_DAYS = 2
    NOT_MATURE = 3
    NO_CAUSE = 4
    BEFORE_CAUSE = 5
    AFTER_WINDOW = 6
    CONFLICTING = 7

    def outcome(self, cause: str | None) -> tuple[str, str]:
        """Outcome and reason.

        Args:
          cause: name of the step before, such as 'exposure' for clicks; None for the exposures themselves.
        """
        return {
            Verdict.JOINED: ("joined", ""),
            Verdict.DUPLICATE: ("duplicate", ""),
            Verdict.CONFLICTING: ("duplicate", "conflicting"),
            Verdict.OTHER_DAYS: ("outside_window", "other_days"),
            Verdict.NOT_MATURE: ("not_mature", "exposure_not_mature" if cause else ""),
            Verdict.NO_CAUSE: ("orphan", f"no_{cause}"),
            Verdict.BEFORE_CAUSE: ("orphan", f"before_{cause}"),
            Verdict.AFTER_WINDOW: ("outside_window", "after_window"),
        }[self]


@dataclass(frozen=True)
class Rules:
    """Which days to join, the attribution, in ms, and the sampling.

    Attributes:
      days: local days whose rows are joined; rows of other days are only looked at.
      timezone: IANA name of the zone in which days begin.
      data_end: end of the data: an exposure whose labels are due later is not mature.
      windows: per step, the longest time after its cause.
      touches: per step, which of the causes that fit counts.
      skew: an event may precede its cause by this much.
      sampling: of the examples that training sees; None to keep all.
    """

    days: tuple[date, ...]
    timezone: str
    data_end: int
    windows: tuple[int, ...]
    touches: tuple[Touch, ...]
    skew: int
    sampling: Sampling | None = None

    @property
    def maturity(self) -> int:
        return sum(self.windows) + self.skew


@dataclass(frozen=True)
class Rows:
    """Rows of one log.

    Attributes:
      key: int64 [n] >= 0, equal for rows of the same (request_id, item_id); of the same (user_id, item_id)
        in an event log without requests.
      time: int64 [n], epoch ms.
      rank: int64 [n], which of two rows of the same key and time counts: the one with the lower rank.
    """

    key: np.ndarray
    time: np.ndarray
    rank: np.ndarray

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class EventRows(Rows):
    """Rows of the log of a step.

    Attributes:
      exposure_key: int64 [exposures], the key that an event of each exposure has in this log.
      exposure_rank: int64 [exposures], the order of exposures of the same such key and time.
    """

    exposure_key: np.ndarray
    exposure_rank: np.ndarray


@dataclass(frozen=True)
class Judged:
    """What became of the rows of a log, in their order.

    Attributes:
      verdicts: int8 [n].
      days: int64 [n], number of the day in which a row counts: of its exposure, if it is attributed to one,
        and else its own.
      exposure: int64 [n], the exposure that a joined event belongs to; -1 for other events, and for exposures.
      delay: int64 [n], ms from the cause to a joined event; 0 for the others.
    """

    verdicts: np.ndarray
    days: np.ndarray
    exposure: np.ndarray
    delay: np.ndarray


def rules(
    logs: LogsConfig,
    attribution: AttributionConfig,
    days: Iterable[date],
    data_end_ms: int,
    sampling: SamplingConfig | None = None,
) -> Rules:
    """The rules by which days are joined, of data that ends at `data_end_ms`."""

    def ms(duration: timedelta) -> int:
        return duration // timedelta(milliseconds=1)

    return Rules(
        days=tuple(days),
        timezone=logs.timezone,
        data_end=data_end_ms,
        windows=tuple(ms(attribution.windows[event]) for event in logs.events),
        touches=tuple(attribution.touch.get(event, "last_touch") for event in logs.events),
        skew=ms(attribution.clock_skew),
        sampling=Sampling(tuple(sampling.keep.get(event, 1.0) for event in logs.events), sampling.seed)
        if sampling is not None and sampling.on
        else None,
    )


def attribute(exposures: Rows, events: Sequence[EventRows], rules: Rules) -> tuple[Judged, ...]:
    """Gives every row its verdict: the exposures first, then the events of each step.

    An exposure counts unless another one of its key lies within REPEAT before it. An event is attributed to
    a cause of its key that it fits: not earlier than the cause by more than the skew and not later by more
    than the window of its step. Causes are the exposures that count for the first step, and the attributed
    events of the step before for the later ones, which hand on the key of their exposure. Of several causes
    that fit it is the last or the first, in the order of their time, their exposures' time and rank. What is
    attributed has the outcome of its exposure. For what is not, the causes of its key up to NEAR outside of
    the times that would fit say why.
    """
    joined_days = np.sort([day.toordinal() for day in rules.days])
    none = np.full(len(exposures), -1)

    counts = _counting(exposures)
    days = day_numbers(exposures.time, rules.timezone)
    verdicts = np.select(
        [~np.isin(days, joined_days), ~counts, exposures.time + rules.maturity > rules.data_end],
        [Verdict.OTHER_DAYS, Verdict.DUPLICATE, Verdict.NOT_MATURE],
        Verdict.JOINED,
    ).astype(np.int8)
    judged = [Judged(verdicts, days, none, np.zeros_like(none))]

    # Causes: of which exposure they are, and when they were.
    causes = (np.flatnonzero(counts), exposures.time[counts])
    for rows, window, touch in zip(events, rules.windows, rules.touches):
        distinct = _distinct(rows)
        fits, cause, why = _find_causes(rows, distinct, causes, exposures.time, window, rules.skew, touch)
        found = distinct[fits]
        of, at = causes[0][cause], causes[1][cause]

        days = day_numbers(rows.time, rules.timezone)
        days[found] = judged[0].days[of]
        verdicts = np.full(len(rows), Verdict.DUPLICATE, np.int8)
        verdicts[distinct] = why
        verdicts[found] = judged[0].verdicts[of]
        verdicts[~np.isin(days, joined_days)] = Verdict.OTHER_DAYS

        is_joined = verdicts[found] == Verdict.JOINED
        exposure, delay = np.full(len(rows), -1), np.zeros(len(rows), np.int64)
        exposure[found[is_joined]] = of[is_joined]
        delay[found[is_joined]] = rows.time[found[is_joined]] - at[is_joined]
        judged.append(Judged(verdicts, days, exposure, delay))
        causes = (of, rows.time[found])
    return tuple(judged)


def _counting(exposures: Rows) -> np.ndarray:
    """The mask of the exposures that do not repeat another one."""
    order = _several(exposures.key)
    order = order[np.lexsort((exposures.rank[order], exposures.time[order], exposures.key[order]))]
    key, time = exposures.key[order], exposures.time[order]
    repeats = (key[1:] == key[:-1]) & (time[1:] - time[:-1] <= _REPEAT_MS)
    counts = np.ones(len(exposures), bool)
    counts[order[1:][repeats]] = False
    return counts


def _distinct(rows: Rows) -> np.ndarray:
    """The events without those of the same key and time as another one."""
    order = _several(rows.key)
    order = order[np.lexsort((rows.rank[order], rows.time[order], rows.key[order]))]
    key, time = rows.key[order], rows.time[order]
    same = (key[1:] == key[:-1]) & (time[1:] == time[:-1])
    distinct = np.ones(len(rows), bool)
    distinct[order[1:][same]] = False
    return np.flatnonzero(distinct)


def _several(key: np.ndarray) -> np.ndarray:
    """Rows that share their key with another one."""
    return np.flatnonzero(np.bincount(key)[key] > 1) if len(key) else np.zeros(0, np.int64)


def _find_causes(
    rows: EventRows,
    distinct: np.ndarray,
    causes: tuple[np.ndarray, np.ndarray],
    exposure_time: np.ndarray,
    window: int,
    skew: int,
    touch: Touch,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which events fit a cause, and which one, as its place among the causes; and why the others do not.

    Args:
      rows: events.
      distinct: which of them to look at.
      causes: exposure and time of each.
      exposure_time: of all exposures.

    Returns:
      fits: bool [distinct].
      cause: int64 [fitting].
      why: int8 [distinct], a verdict; nothing where the event fits.
    """
    key, time = rows.key[distinct], rows.time[distinct]
    exposure, cause_time = causes
    cause_key = rows.exposure_key[exposure]
    # Most exposures have no event: causes of other keys need no sorting.
    wanted = np.zeros(1 + max(int(key.max(initial=0)), int(cause_key.max(initial=0))), bool)
    wanted[key] = True
    place = np.flatnonzero(wanted[cause_key])
    exposure, cause_time, cause_key = exposure[place], cause_time[place], cause_key[place]
    order = np.lexsort((rows.exposure_rank[exposure], exposure_time[exposure], cause_time, cause_key))
    place = place[order]
    # (key, time) pairs become one integer by the rank of the time, which is small enough not to overflow.
    times, rank = np.unique(cause_time[order], return_inverse=True)
    span = len(times) + 1
    codes = cause_key[order] * span + rank.reshape(-1)

    def causes_before(instant: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        return np.searchsorted(codes, key * span + np.searchsorted(times, instant, side), "left")

    near_begin, begin = causes_before(time - window - _NEAR_MS, "left"), causes_before(time - window, "left")
    end, near_end = causes_before(time + skew, "right"), causes_before(time + skew + _NEAR_MS, "right")
    fits = end > begin
    why = np.select(
        [begin > near_begin, near_end > end], [Verdict.AFTER_WINDOW, Verdict.BEFORE_CAUSE], Verdict.NO_CAUSE
    ).astype(np.int8)
    return fits, place[(end - 1 if touch == "last_touch" else begin)[fits]], why
