"""Negative sampling: which examples training sees, and how many each of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.log_example_gen.parsing import mix


@dataclass(frozen=True)
class Sampling:
    """A share kept per step of the funnel.

    Attributes:
      rates: per step, the share kept of the rows that end before it.
      seed: another one keeps other rows.
    """

    rates: tuple[float, ...]
    seed: int

    def draw(self, labels: Sequence[np.ndarray], hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are kept, and the weight of each of them.

        A row that reached all steps is kept. Another one is kept if a hash of its key, as a number in [0, 1), is
        below the rate of the first step that it did not reach: no draw depends on the rows around it.

        Args:
          labels: per step, [n] 0/1.
          hashes: uint64 [n], hash of the key.

        Returns:
          int64 [kept], and float64 [kept]: 1 / rate.
        """
        rate = np.ones(len(hashes))
        for label, of_step in reversed(list(zip(labels, self.rates))):
            rate[label == 0] = of_step
        seeded = mix(hashes ^ mix(np.array([self.seed + 1], np.uint64)))
        uniform = (seeded >> np.uint64(11)) * 2.0**-53
        kept = np.flatnonzero(uniform < rate)
        return kept, 1 / rate[kept]
