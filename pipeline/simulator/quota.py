"""How many rows of each kind of dirt are due."""

from __future__ import annotations

import math
from collections import Counter


class Quota:
    """Hands out shares of rows day by day, so that their sums over the days are exact.

    By the end of any day, a kind with share s of n rows has befallen ceil(s n) of them: at least one
    where there is any, and no more in small logs than in large ones.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._given: Counter[str] = Counter()

    def take(self, kind: str, share: float, rows: int, available: int | None = None) -> int:
        """Rows that are due on this day.

        Args:
          kind: name of the kind of dirt; each has its own account.
          share: of all rows.
          rows: that this day has.
          available: rows of this day that can be taken, `rows` by default. What is missing is made up for later.
        """
        self._seen[kind] += rows
        # The product of a decimal share may come out just above a whole number.
        due = math.ceil(share * self._seen[kind] - 1e-6) - self._given[kind]
        due = min(due, rows if available is None else available)
        self._given[kind] += due
        return due
