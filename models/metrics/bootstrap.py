"""Poisson bootstrap of units (users) for statistics that are functions of sums over units.

Every unit has a weight per replicate, drawn from a Poisson distribution of mean 1 by a hash of the unit, the replicate
and a seed: the same on every worker, without a shared random state. A statistic is a matrix of sums per unit and a
function of their totals, so all replicates are one matrix product, and totals of different workers add up.

References: Chamandy et al., Estimating uncertainty for massive data streams, Google 2012; Field and Welsh,
Bootstrapping clustered data, JRSS B 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, factorial

import numpy as np

_BLOCK = 1 << 22
"""Weights that are in memory at a time."""


@dataclass(frozen=True)
class Statistic:
    """Some numbers that depend on sums over units.

    Attributes:
      units: index of each row of `columns` among all units, ascending.
      columns: sums per unit, float64 [len(units), m].
      value: from totals [..., m] to values [..., n], such as those of a baseline and a candidate.
    """

    units: np.ndarray
    columns: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]


def replicate(statistics: Sequence[Statistic], unit_hashes: np.ndarray, replicates: int, seed: int) -> list[np.ndarray]:
    """Values of each statistic in every replicate, [replicates, n].

    Args:
      statistics: their units index `unit_hashes`.
      unit_hashes: uint64, one per unit; equal for the same user wherever it is computed.
      replicates: number of replicates.
      seed: another seed gives other weights.
    """
    totals = [np.zeros((replicates, s.columns.shape[1])) for s in statistics]
    size = max(1, _BLOCK // replicates)
    for start in range(0, len(unit_hashes), size):
        end = min(start + size, len(unit_hashes))
        weights = poisson_weights(unit_hashes[start:end], replicates, seed).astype(np.float64)
        for total, s in zip(totals, statistics):
            first, last = np.searchsorted(s.units, [start, end])
            if first < last:
                rows = s.units[first:last] - start
                # A view of all rows costs no copy.
                of_units = weights if len(rows) == end - start else weights[rows]
                total += of_units.T @ s.columns[first:last]
    return [s.value(total) for s, total in zip(statistics, totals)]


def poisson_weights(unit_hashes: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Poisson(1) weights, uint8 [units, replicates]; a unit's do not depend on the other units."""
    words = -(-replicates // 4)
    with np.errstate(over="ignore"):
        per_word = _mix(np.arange(1, words + 1, dtype=np.uint64) + _mix(np.array([seed], np.uint64)) * np.uint64(2))
        bits = _mix(_mix(np.asarray(unit_hashes, np.uint64))[:, None] ^ per_word[None, :])
    # Sixteen bits a weight: the distribution is right to 1/65536.
    return _TABLE[bits.view(np.uint16)][:, :replicates]


def hash_ids(ids: Sequence[bytes] | Sequence[str] | np.ndarray) -> np.ndarray:
    """uint64 hashes of ids, the same in every process."""
    import pandas as pd

    return pd.util.hash_array(np.asarray(ids, dtype=object), categorize=True)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, after its increment."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _poisson_table() -> np.ndarray:
    """Quantiles of Poisson(1) at (i + 1/2) / 65536."""
    cumulative = np.cumsum([exp(-1) / factorial(k) for k in range(20)])
    return np.searchsorted(cumulative, (np.arange(65536) + 0.5) / 65536).astype(np.uint8)


_TABLE = _poisson_table()
