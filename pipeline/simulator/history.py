"""Which items each user clicked before a moment."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.simulator.calendar import Calendar
from pipeline.simulator.world import World

MAX_LENGTH = 20

_SPAN = 2**36  # ms; two years, so that (user, time) fits into one int64
_BEFORE = 30 * 86_400_000  # clicks made before the first simulated day


class ClickHistory:
    """The last clicks of every user, kept in order of (user, time)."""

    def __init__(self, world: World, calendar: Calendar, rng: np.random.Generator):
        """Gives every user 0 to 10 clicks, on items that suit, in the month before the first day."""
        self._origin = int(calendar.starts[0]) - _BEFORE - 1
        user = np.repeat(np.arange(world.config.users), rng.integers(0, 11, world.config.users))
        self._keys = np.empty(0, np.int64)
        self._items = np.empty(0, np.int64)
        self.add(user, calendar.starts[0] - rng.integers(1, _BEFORE, len(user)), world.draw_items(user, rng))

    def add(self, user: np.ndarray, time: np.ndarray, item: np.ndarray) -> None:
        keys = np.concatenate([self._keys, self._key(user, time)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._items = keys[order], np.concatenate([self._items, item])[order]

    def trim(self) -> None:
        """Forgets what no later look-up needs. Only look up later times after it."""
        user = self._keys // _SPAN
        after = np.searchsorted(user, user, side="right") - np.arange(len(user))
        kept = after <= MAX_LENGTH
        self._keys, self._items = self._keys[kept], self._items[kept]

    def before(self, user: np.ndarray, time: np.ndarray) -> pa.ListArray:
        """Items that each user clicked before each epoch ms, oldest first: the last MAX_LENGTH of them."""
        end = np.searchsorted(self._keys, self._key(user, time))
        start = np.maximum(np.searchsorted(self._keys, user * _SPAN), end - MAX_LENGTH)
        length = end - start
        offsets = np.concatenate([[0], np.cumsum(length)])
        where = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(self._items[where]))

    def _key(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        return user.astype(np.int64) * _SPAN + (time - self._origin)
