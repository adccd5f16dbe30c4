"""Columns of the logs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.simulator.calendar import Calendar
from pipeline.simulator.history import ClickHistory
from pipeline.simulator.world import AGE_GROUPS, COUNTRIES, DEVICES, Exposures, World


def exposure_table(world: World, calendar: Calendar, history: ClickHistory, exposures: Exposures) -> pa.Table:
    """Rows of the exposure log."""
    user, item = exposures.user, exposures.item
    # All items of a request see the history of its first row.
    order = np.argsort(exposures.request, kind="stable")
    _, first, request = np.unique(exposures.request[order], return_index=True, return_inverse=True)
    request_of = np.empty(len(exposures), np.int64)
    request_of[order] = request.reshape(-1)
    first = order[first]
    histories = history.before(user[first], exposures.time[first])
    return pa.table(
        {
            "request_id": request_ids(exposures.request),
            "item_id": pa.array(item),
            "user_id": pa.array(user),
            "time": pa.array(exposures.time),
            "position": pa.array(exposures.position),
            "device": _names(DEVICES, exposures.device),
            "country": _names(COUNTRIES, world.country[user]),
            "age_group": _names(AGE_GROUPS, world.age_group[user]),
            "hour": pa.array(exposures.hour),
            "weekday": pa.array(calendar.weekdays(exposures.time)),
            "category": _names([f"c{i}" for i in range(world.config.categories)], world.category[item]),
            "seller": pa.array(world.seller[item]),
            "price": pa.array(world.price[item]),
            "history": histories.take(pa.array(request_of)),
        }
    )


def event_table(request: np.ndarray, item: np.ndarray, time: np.ndarray) -> pa.Table:
    """Rows of an event log."""
    return pa.table({"request_id": request_ids(request), "item_id": pa.array(item), "time": pa.array(time)})


def request_ids(numbers: np.ndarray) -> pa.Array:
    """'r17' for request 17 and 'x3' for -3, of which no exposure was logged."""
    prefix = pc.if_else(pa.array(numbers >= 0), "r", "x")
    return pc.binary_join_element_wise(prefix, pa.array(np.abs(numbers)).cast(pa.string()), "")


def _names(names: Sequence[str], index: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(list(names))).dictionary_decode()
