"""Finds raw rows again among the trainer's, by what the transform makes of them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

_NEAR = 1e-4  # of a number's spread: above the last digits of float32, below what tells rows apart


def matches(reference: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> np.ndarray:
    """For each found row the index of the reference row with the same ids and the nearest numbers, or -1.

    Args:
      reference: transformed features, int64 or float32, [rows] or [rows, length].
      found: the same features of other rows.
    """
    size = len(next(iter(reference.values())))
    both = {
        name: np.concatenate([values, found[name]]).reshape(size + len(found[name]), -1)
        for name, values in reference.items()
    }
    ids = [values for values in both.values() if values.dtype.kind != "f"]
    numbers = [values for values in both.values() if values.dtype.kind == "f"]
    rows = len(next(iter(both.values())))
    group = np.unique(np.hstack(ids), axis=0, return_inverse=True)[1] if ids else np.zeros(rows)
    places = np.hstack([group.reshape(-1, 1).astype(np.float64), *numbers])
    spread = np.nan_to_num(places[:size, 1:].std(axis=0))
    places[:, 1:] = np.nan_to_num(places[:, 1:] / np.maximum(spread, 1.0))
    # Ids that differ in any way are a whole step apart.
    distance, nearest = cKDTree(places[:size]).query(places[size:], p=np.inf, distance_upper_bound=_NEAR)
    return np.where(np.isfinite(distance), nearest, -1)
