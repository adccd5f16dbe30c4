"""Days, hours and weekdays of epoch times in a time zone, with its summer time."""

from __future__ import annotations

import zoneinfo
from datetime import date, datetime, timedelta, timezone

import numpy as np

_SLOT = 15 * 60 * 1000  # zones change their offset at quarters of an hour (UTC) only


def milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))


class Calendar:
    """The days from `first_day` on, in a zone.

    Attributes:
      starts: [days + 1] int64, epoch ms at which each day starts; the last is the end of the last day.
    """

    def __init__(self, first_day: date, days: int, zone: str):
        self.first_day = first_day
        self.days = days
        self._zone = zoneinfo.ZoneInfo(zone)
        self.starts = np.array(
            [
                int(datetime(d.year, d.month, d.day, tzinfo=self._zone).timestamp()) * 1000
                for d in (first_day + timedelta(days=i) for i in range(days + 1))
            ],
            np.int64,
        )

    def date(self, index: int) -> date:
        return self.first_day + timedelta(days=int(index))

    def index(self, times: np.ndarray) -> np.ndarray:
        """Number of the day of each epoch ms, 0 for first_day; -1 before it and `days` after the last."""
        return np.searchsorted(self.starts, times, side="right") - 1

    def hours(self, times: np.ndarray) -> np.ndarray:
        """Hour of the local day, 0 to 23, of each epoch ms."""
        return self._local(times) // 3_600_000 % 24

    def weekdays(self, times: np.ndarray) -> np.ndarray:
        """Local day of the week of each epoch ms, 0 for Monday."""
        return (self._local(times) // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday

    def _local(self, times: np.ndarray) -> np.ndarray:
        slots, where = np.unique(times // _SLOT, return_inverse=True)
        offsets = np.array([self._offset(int(s)) for s in slots], np.int64)
        return times + offsets[where.reshape(-1)]

    def _offset(self, slot: int) -> int:
        moment = datetime.fromtimestamp(slot * _SLOT / 1000, timezone.utc)
        return milliseconds(moment.astimezone(self._zone).utcoffset() or timedelta(0))
