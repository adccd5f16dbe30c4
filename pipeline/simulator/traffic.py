"""What the users do in a day: sessions, requests, and the items they are shown."""

from __future__ import annotations

import numpy as np

from pipeline.simulator.calendar import Calendar
from pipeline.simulator.world import DEVICES, Exposures, World

_REQUESTS_PER_SESSION = 3
_MAX_REQUESTS = 12
_ITEMS_PER_REQUEST = (4, 12)
_MS_PER_ITEM = 700
_MS_BETWEEN_REQUESTS = 75_000

# Visits by local hour: least at night, most in the evening.
_HOURS = np.array([9, 6, 4, 3, 2, 3, 6, 12, 18, 22, 25, 28, 31, 30, 27, 26, 27, 30, 34, 38, 42, 40, 30, 18], float)


def day_of_traffic(
    world: World, calendar: Calendar, day: int, count: int, first_request: int, rng: np.random.Generator
) -> Exposures:
    """Draws exactly `count` exposures of a day, with requests numbered from `first_request` on."""
    columns: list[dict[str, np.ndarray]] = []
    missing, mean_items = count, sum(_ITEMS_PER_REQUEST) / 2 * _REQUESTS_PER_SESSION
    while missing > 0:
        batch = _sessions(world, calendar, day, int(missing / mean_items * 1.15) + 8, first_request, rng)
        batch = {name: column[:missing] for name, column in batch.items()}
        columns.append(batch)
        missing -= len(batch["time"])
        first_request = int(batch["request"][-1]) + 1
    merged = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
    exposures = Exposures(hour=calendar.hours(merged["time"]), **merged)
    return exposures.take(np.argsort(exposures.time, kind="stable"))


def _sessions(
    world: World, calendar: Calendar, day: int, sessions: int, first_request: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    user = np.searchsorted(world.activity, rng.random(sessions))
    device = np.where(rng.random(sessions) < 0.8, world.device[user], rng.integers(0, len(DEVICES), sessions))
    hour = rng.choice(24, sessions, p=_HOURS / _HOURS.sum())
    start, end = int(calendar.starts[day]), int(calendar.starts[day + 1])
    started = start + ((hour + rng.random(sessions)) / 24 * (end - start)).astype(np.int64)

    length = np.minimum(rng.geometric(1 / _REQUESTS_PER_SESSION, sessions), _MAX_REQUESTS)
    session = np.repeat(np.arange(sessions), length)
    within = _ranks(length)
    gap = np.where(within > 0, 5_000 + rng.exponential(_MS_BETWEEN_REQUESTS, len(session)), 0.0)
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[np.cumsum(length) - length][session]
    requested = started[session] + elapsed.astype(np.int64)
    # A session that would run past midnight stays in its day.
    requested = np.minimum(requested, end - 1 - _MS_PER_ITEM * _ITEMS_PER_REQUEST[1])

    size = rng.integers(_ITEMS_PER_REQUEST[0], _ITEMS_PER_REQUEST[1] + 1, len(session))
    request = np.repeat(np.arange(len(session)), size)
    items = world.draw_items(user[session][request], rng)
    # An item is shown once in a request.
    _, first = np.unique(request * len(world.price) + items, return_index=True)
    rows = np.sort(first)
    request, items = request[rows], items[rows]
    position = _ranks(np.bincount(request, minlength=len(session))) + 1
    return {
        "request": first_request + request,
        "user": user[session][request],
        "item": items,
        "device": device[session][request],
        "position": position,
        "time": requested[request] + (position - 1) * _MS_PER_ITEM,
    }


def _ranks(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for each n of `lengths`, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
