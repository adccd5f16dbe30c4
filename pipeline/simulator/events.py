"""Clicks and purchases of a day's exposures, and the dirty ones among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.simulator.calendar import milliseconds
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.quota import Quota
from pipeline.simulator.world import Exposures

_CLICK_MEDIAN_MS = 9_000
_PURCHASE_MEDIAN_MS = 45 * 60_000


@dataclass(frozen=True)
class Events:
    """Rows of an event log before they are written, in columns of one length.

    Attributes:
      exposure: row of the day's exposures that the event follows; -1 if it follows none that is logged.
      item: index of the item.
      time: epoch ms.
      kind: what the row is, such as 'clean' or 'after_window'.
    """

    exposure: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class DayOfEvents:
    """Events of one day's exposures.

    Attributes:
      clicked, purchased: [exposures] bool, the labels.
      clicks, purchases: what goes to the logs.
    """

    clicked: np.ndarray
    purchased: np.ndarray
    clicks: Events
    purchases: Events


def draw_events(
    config: SimulationConfig,
    exposures: Exposures,
    ctr: np.ndarray,
    cvr: np.ndarray,
    day_start: int,
    quota: Quota,
    rng: np.random.Generator,
) -> DayOfEvents:
    """Draws labels from the probabilities, event times inside the windows, and the dirt on top.

    Only exposures without a click get dirty clicks, and only those without a purchase dirty purchases:
    a row's labels are what was drawn, whatever dirt surrounds it.
    """
    dirt = config.dirt
    window, skew = milliseconds(config.click_window), milliseconds(config.clock_skew)
    purchase_window = milliseconds(config.purchase_window)
    n = len(exposures)
    time = exposures.time

    clicked = rng.random(n) < ctr
    purchased = clicked & (rng.random(n) < cvr)
    click_time = time + _delay(n, _CLICK_MEDIAN_MS, 1.2, 500, window, rng)
    purchase_time = click_time + _delay(n, _PURCHASE_MEDIAN_MS, 0.7, 60_000, purchase_window, rng)
    with_click, with_purchase = np.flatnonzero(clicked), np.flatnonzero(purchased)

    clicks = [(with_click, click_time[with_click], "clean")]
    purchases = [(with_purchase, purchase_time[with_purchase], "clean")]
    ghosts: dict[str, np.ndarray] = {}

    def due(kind: str, rows: np.ndarray, available: np.ndarray) -> int:
        return quota.take(kind, getattr(dirt, kind), len(rows), len(available))

    # Clicks that do not count, each on an exposure of its own that has no other click.
    idle = rng.permutation(np.flatnonzero(~clicked))
    rows, idle = _split(idle, due("clicks_after_window", with_click, idle))
    late_click = rows
    clicks.append((rows, time[rows] + window + 1 + _upto(2 * window, len(rows), rng), "after_window"))
    # Not in the first minutes of the day: the day before has been written.
    early_enough = time[idle] - day_start > skew + 120_000
    candidates, idle = idle[early_enough], idle[~early_enough]
    rows, rest = _split(candidates, due("clicks_before_exposure", with_click, candidates))
    idle = np.concatenate([rest, idle])
    clicks.append((rows, time[rows] - skew - 1 - _upto(60_000, len(rows), rng), "before_exposure"))
    # A second click that counts too, on an exposure with time left for it.
    candidates = rng.permutation(with_click[click_time[with_click] < time[with_click] + window])
    rows, _ = _split(candidates, due("repeated_clicks", with_click, candidates))
    room = np.minimum(time[rows] + window - click_time[rows], 60_000)
    clicks.append((rows, click_time[rows] + 1 + _upto(room, len(rows), rng), "repeated"))
    ghosts["click"] = rng.integers(0, n, due("clicks_without_exposure", with_click, exposures.time))

    # Purchases that do not count, each on an exposure of its own that has no other purchase.
    lost = rng.permutation(np.flatnonzero(clicked & ~purchased))
    rows, lost = _split(lost, due("purchases_after_window", with_purchase, lost))
    purchases.append(
        (rows, click_time[rows] + purchase_window + 1 + _upto(purchase_window, len(rows), rng), "after_window")
    )
    lost = lost[click_time[lost] - day_start > skew + 120_000]
    rows, lost = _split(lost, due("purchases_before_click", with_purchase, lost))
    purchases.append((rows, click_time[rows] - skew - 1 - _upto(60_000, len(rows), rng), "before_click"))
    # Without any click, without even an exposure, and after a click that came too late, in turn.
    count = due("purchases_without_click", with_purchase, exposures.time)
    rows = np.concatenate([idle[: (count + 2) // 3], late_click[: count // 3]])
    purchases.append((rows, time[rows] + 60_000 + _upto(3_600_000, len(rows), rng), "no_click"))
    ghosts["purchase"] = rng.integers(0, n, count - len(rows))

    ghost_times = {
        event: time[rows] + _delay(len(rows), _CLICK_MEDIAN_MS, 1.2, 500, window, rng) for event, rows in ghosts.items()
    }
    return DayOfEvents(
        clicked,
        purchased,
        _events(exposures, clicks, ghosts["click"], ghost_times["click"], "no_exposure"),
        _events(exposures, purchases, ghosts["purchase"], ghost_times["purchase"], "no_click"),
    )


def _events(
    exposures: Exposures,
    parts: list[tuple[np.ndarray, np.ndarray, str]],
    ghosts: np.ndarray,
    ghost_times: np.ndarray,
    ghost_kind: str,
) -> Events:
    rows = np.concatenate([p[0] for p in parts])
    kinds = [np.full(len(p[0]), p[2], "U16") for p in parts]
    return Events(
        exposure=np.concatenate([rows, np.full(len(ghosts), -1)]).astype(np.int64),
        item=exposures.item[np.concatenate([rows, ghosts]).astype(np.int64)],
        time=np.concatenate([p[1] for p in parts] + [ghost_times]).astype(np.int64),
        kind=np.concatenate([*kinds, np.full(len(ghosts), ghost_kind, "U16")]),
    )


def _split(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    return rows[:count], rows[count:]


def _upto(limit: int | np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers from 0 to limit - 1."""
    return (rng.random(n) * limit).astype(np.int64)


def _delay(n: int, median: float, shape: float, least: int, window: int, rng: np.random.Generator) -> np.ndarray:
    """Delays in ms, log-logistic: from seconds to days, none of them beyond the window."""
    share_inside = 1 / (1 + (window / median) ** -shape)
    u = rng.random(n) * share_inside
    delay = median * (u / (1 - u)) ** (1 / shape)
    return np.clip(delay, min(least, window), window).astype(np.int64)
