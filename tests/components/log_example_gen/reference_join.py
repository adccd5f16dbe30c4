"""The rules of the join in plain Python: one row at a time, with lists and loops, slow and easy to check.

The rules, for one bucket or a whole log, in any order of rows:

- An exposure's key is its request and item. An exposure repeats another one, and does not count, if one of its key
  was at most 6 hours before it, or at the same time and before it in the order of their columns' values.
- A duplicate conflicts if it and the row of its key just before it, in that order, have different values of a column
  other than the time; a missing value differs from none.
- An event's key is its request and item, or its user and item where its log has no request. Of events with the same
  key and time the first by value counts.
- Causes are the exposures that count for the first event of the funnel, and the attributed events of the step before
  for the next. A cause fits an event if it belongs to an exposure with the event's key, and lies at most the window
  before the event and at most the clock skew after it. Causes stand in the order of their time, their exposure's time
  and its request; last touch takes the last one that fits, first touch the first.
- An attributed event has the day and the outcome of its exposure. Any other row has the day of its own time.
- A row of a day that is not joined is outside of the window. An exposure whose labels would come after the end of the
  data is not mature.
- An event without a fitting cause is late if a cause lies up to 12 hours before its window, else early if one lies up
  to 12 hours after the skew, else it has no cause.
- What is missing comes after all values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

HOUR = 3_600_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How to join.

    Attributes:
      days: the days to join.
      zone: where days begin.
      data_end: epoch ms.
      windows: ms by event, in the order of the funnel.
      touches: last_touch or first_touch by event.
      owners: request_id or user_id by event: what makes the key, with the item.
      skew: ms.
    """

    days: tuple[date, ...]
    zone: str
    data_end: int
    windows: dict[str, int]
    touches: dict[str, str]
    owners: dict[str, str]
    skew: int


@dataclass
class Result:
    """What came out.

    Attributes:
      examples: rows of the exposures that were joined, each with its labels, counts, delays and values.
      outcomes: rows by (log, day, outcome, reason).
      delays: time from cause to event by (event, day).
    """

    examples: list[Row] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    delays: dict[tuple[str, date], list[int]] = field(default_factory=dict)


def reference_join(exposures: list[Row], events: dict[str, list[Row]], setting: Setting) -> Result:
    result = Result()

    def count(log: str, day: date, outcome: str, reason: str) -> str:
        if day not in setting.days:
            outcome, reason = "outside_window", "other_days"
        result.outcomes[log, day, outcome, reason] += 1
        return outcome

    shown = sorted(exposures, key=lambda row: (row["event_time"], _in_order(row)))
    state: list[tuple[Row, str]] = []
    for i, row in enumerate(shown):
        time = row["event_time"]
        repeats = any(
            (other["request_id"], other["item_id"]) == (row["request_id"], row["item_id"])
            and time - other["event_time"] <= 6 * HOUR
            for other in shown[:i]
        )
        mature = time + sum(setting.windows.values()) + setting.skew <= setting.data_end
        outcome = "duplicate" if repeats else "joined" if mature else "not_mature"
        before = [o for o in shown[:i] if (o["request_id"], o["item_id"]) == (row["request_id"], row["item_id"])]
        reason = "conflicting" if repeats and _conflict(before[-1], row) else ""
        outcome = count("exposures", local_day(time, setting.zone), outcome, reason)
        if not repeats:
            state.append((row, outcome))

    found: dict[int, dict[str, list[Row]]] = {id(row): {} for row, _ in state}
    causes = [(row["event_time"], row, outcome) for row, outcome in state]
    step_before = "exposure"
    for event, window in setting.windows.items():
        owner, next_causes = setting.owners[event], []
        seen: dict[tuple, Row] = {}
        for row in sorted(events[event], key=lambda row: (row["event_time"], _in_order(row))):
            time, key = row["event_time"], (row[owner], row["item_id"])
            own_day = local_day(time, setting.zone)
            if (key, time) in seen:
                count(event, own_day, "duplicate", "conflicting" if _conflict(seen[key, time], row) else "")
                seen[key, time] = row
                continue
            seen[key, time] = row
            same = [c for c in causes if (c[1][owner], c[1]["item_id"]) == key]
            fitting = [c for c in same if time - window <= c[0] <= time + setting.skew]
            if fitting:
                fitting.sort(key=lambda c: (c[0], c[1]["event_time"], c[1]["request_id"]))
                cause_time, exposure, outcome = fitting[-1 if setting.touches[event] == "last_touch" else 0]
                day = local_day(exposure["event_time"], setting.zone)
                next_causes.append((time, exposure, outcome))
                count(event, day, outcome, "exposure_not_mature" if outcome == "not_mature" else "")
                if outcome == "joined":
                    found[id(exposure)].setdefault(event, []).append(row)
                    result.delays.setdefault((event, day), []).append(time - cause_time)
            elif any(time - window - 12 * HOUR <= c[0] < time - window for c in same):
                count(event, own_day, "outside_window", "after_window")
            elif any(time + setting.skew < c[0] <= time + setting.skew + 12 * HOUR for c in same):
                count(event, own_day, "orphan", f"before_{step_before}")
            else:
                count(event, own_day, "orphan", f"no_{step_before}")
        causes, step_before = next_causes, event

    for row, outcome in state:
        if outcome != "joined":
            continue
        example = dict(row)
        for event in setting.windows:
            # In the order of their time, as they were looked at above.
            of_event = found[id(row)].get(event, [])
            example[event] = int(bool(of_event))
            example[f"{event}_count"] = len(of_event)
            example[f"{event}_delay_ms"] = of_event[0]["event_time"] - row["event_time"] if of_event else None
            if any("value" in other for other in events[event]):
                # One after another: sum() is compensated as of Python 3.12, and so rounds differently.
                example[f"{event}_value"] = 0.0
                for other in of_event:
                    example[f"{event}_value"] += other["value"] or 0.0
        result.examples.append(example)
    return result


def local_day(time: int, zone: str) -> date:
    return datetime.fromtimestamp(time // 1000, ZoneInfo(zone)).date()


def _conflict(row: Row, other: Row) -> bool:
    names = [name for name in row if name != "event_time" and None not in (row[name], other[name])]
    return any(row[name] != other[name] for name in names)


def _in_order(row: Row) -> list[tuple[bool, Any]]:
    return [(value is None, value) for value in row.values()]
