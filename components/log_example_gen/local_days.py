"""Local days of instants. A day has a number, that of `date.toordinal`."""

from __future__ import annotations

import functools
import zoneinfo
from datetime import date, datetime

import numpy as np

_FIRST, _LAST = date(1970, 1, 1), date(2101, 1, 1)


def day_numbers(time: np.ndarray, timezone: str) -> np.ndarray:
    """Number of the local day of each instant.

    Args:
      time: int64 [n], epoch ms from 1970 to 2100.
      timezone: IANA name.
    """
    return np.searchsorted(_starts(timezone), time, side="right") - 1 + _FIRST.toordinal()


@functools.cache
def _starts(timezone: str) -> np.ndarray:
    """Epoch ms at which each day begins; days have 23 to 25 hours where clocks change."""
    zone = zoneinfo.ZoneInfo(timezone)
    days = (date.fromordinal(n) for n in range(_FIRST.toordinal(), _LAST.toordinal() + 1))
    return np.array([round(datetime(d.year, d.month, d.day, tzinfo=zone).timestamp() * 1000) for d in days])
