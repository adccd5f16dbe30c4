"""Metrics within groups: GAUC per user; NDCG, MAP, recall and value at k per request.

The state holds, per group and distinct score in it, sums over the rows that share both: their weight, weighted
positives, number, number of positives, and values. Merging two states adds up what shares group and score, so a group
may be spread over shards in any way. A metric then takes one value and one weight per group and is their weighted
mean, so that groups are what is resampled or cut into slices.

Rules, each of which has a test:
- Rows whose label is missing do not count; the number of rows counts after that.
- Ties: a pair with equal scores counts one half in GAUC; metrics at k take the mean over all orders of the tied rows.
- GAUC leaves out groups with one class, the metrics at k groups without a positive, and both say how many.
- GAUC weighs a group by the weight of its rows (its impressions); the metrics at k by the mean weight of its rows,
  which is 1 without example weights, so that every request counts the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.metrics.rows import counted_rows

WEIGHT, POSITIVES, ROWS, HITS, VALUE, EXPECTED = range(6)


@dataclass(frozen=True)
class GroupSums:
    """Sums per group and distinct score, by group ascending and score descending.

    Attributes:
      group: id of the group, integers [n].
      score: float64 [n].
      sums: float64 [n, 6]: weight, weighted positives, rows, positives, observed value, expected value.
    """

    group: np.ndarray
    score: np.ndarray
    sums: np.ndarray

    def __add__(self, other: GroupSums) -> GroupSums:
        return _compact(
            np.concatenate([self.group, other.group]),
            np.concatenate([self.score, other.score]),
            np.concatenate([self.sums, other.sums]),
        )

    @property
    def starts(self) -> np.ndarray:
        """Where each group begins."""
        return np.flatnonzero(np.concatenate([[True], self.group[1:] != self.group[:-1]])[: len(self.group)])


@dataclass(frozen=True)
class GroupValues:
    """One value and weight per group that the metric can judge.

    Attributes:
      group, value, weight: [groups].
      left_out: number of groups that it cannot judge.
    """

    group: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    left_out: int

    @property
    def mean(self) -> float:
        """The metric; NaN where no group is left."""
        total = self.weight.sum()
        return float(self.weight @ self.value / total) if total > 0 else float("nan")


def group_sums(
    groups: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    values: np.ndarray | None = None,
    prices: np.ndarray | None = None,
) -> GroupSums:
    """The state of a shard.

    Args:
      groups: id of each row's group, integers.
      labels: 0 or 1; rows with a missing label (NaN) do not count.
      scores: probabilities.
      weights: example weights, 1 by default.
      values: what each row brought, such as the amount of its purchase; for `value_at_k`.
      prices: what a positive of each row would bring. With prices rows are ranked by score × price.

    Raises:
      ValueError: see `counted_rows`; and for prices that are negative or missing.
    """
    y, p, w, kept = counted_rows(labels, scores, weights)
    observed = np.zeros(len(y)) if values is None else np.asarray(values, np.float64)[kept]
    expected = np.zeros(len(y))
    if prices is not None:
        price = np.asarray(prices, np.float64)[kept]
        if not (price >= 0).all():
            row = int(np.flatnonzero(kept)[np.argmin(price >= 0)])
            raise ValueError(f"prices: expected a number of at least 0, got {np.asarray(prices)[row]} in row {row}")
        expected = p = p * price
    return _compact(np.asarray(groups)[kept], p, np.stack([w, w * y, np.ones(len(y)), y, observed, expected], axis=1))


def gauc(state: GroupSums) -> GroupValues:
    """AUC within each group, weighed by its impressions.

    Reference: Zhu et al., Optimized Cost per Click in Taobao Display Advertising, KDD 2017.
    """
    positive = state.sums[:, POSITIVES]
    negative = state.sums[:, WEIGHT] - positive
    starts = state.starts
    p, n, weight = (_per_group(c, starts) for c in (positive, negative, state.sums[:, WEIGHT]))
    hits, rows = (_per_group(state.sums[:, c], starts) for c in (HITS, ROWS))
    # Descending scores: negatives below are those of the group less those down to here.
    below = np.repeat(n, _sizes(starts, len(state.group))) - _within(negative, starts) + negative / 2
    above_pairs = _per_group(positive * below, starts)
    judged = (hits > 0) & (hits < rows)
    return GroupValues(
        state.group[starts][judged], above_pairs[judged] / (p * n)[judged], weight[judged], int((~judged).sum())
    )


def ndcg_at_k(state: GroupSums, k: int) -> GroupValues:
    """DCG of the first k over the best possible, with gains of 1 and discounts 1 / log2(place + 1).

    Reference: Järvelin and Kekäläinen, TOIS 2002; ties as McSherry and Najork, ECIR 2008.
    """
    before, size, hits, starts = _runs(state)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    share = discounts[np.minimum(before + size, k)] - discounts[np.minimum(before, k)]
    gained = _per_group(hits / size * share, starts)
    positives = _per_group(hits, starts)
    return _judged(state, starts, gained, discounts[np.minimum(positives, k).astype(np.int64)], positives > 0)


def recall_at_k(state: GroupSums, k: int) -> GroupValues:
    """Share of the group's positives that are among its first k."""
    before, size, hits, starts = _runs(state)
    taken = np.clip(k - before, 0, size)
    positives = _per_group(hits, starts)
    return _judged(state, starts, _per_group(hits * taken / size, starts), positives, positives > 0)


def map_at_k(state: GroupSums, k: int) -> GroupValues:
    """Mean over the group's positives, at most k of them, of the precision at each that is among the first k.

    The sum of the precisions is divided by the smaller of k and the number of positives.
    """
    before, size, hits, starts = _runs(state)
    taken = np.clip(k - before, 0, size)
    run = np.repeat(np.arange(len(size)), taken)
    place = np.arange(len(run)) - np.repeat(np.cumsum(taken) - taken, taken)  # 0 for the first of a tied run
    hits_before = (_within(hits, starts) - hits)[run]
    h, c = hits[run], size[run]
    # Mean over orders: a place holds a positive with h/c, and then each place before it in the run with (h-1)/(c-1).
    earlier = np.where(c > 1, place * (h - 1) / np.maximum(c - 1, 1), 0.0)
    precision = h / c * (hits_before + 1 + earlier) / (before[run] + place + 1)
    positives = _per_group(hits, starts)
    found = _per_group(np.bincount(run, precision, len(size)), starts)
    return _judged(state, starts, found, np.minimum(positives, k), positives > 0)


def value_at_k(state: GroupSums, k: int) -> GroupValues:
    """Observed value per thousand impressions, had only the k of each request with the highest scores been shown.

    With `prices` the score is the expected value, such as pCTCVR × price. Every request with a row counts, by the
    number of its impressions among the first k.
    """
    return _thousand(state, k, VALUE)


def expected_value_at_k(state: GroupSums, k: int) -> GroupValues:
    """What the model itself expects `value_at_k` to be: the mean of score × price, per thousand impressions."""
    return _thousand(state, k, EXPECTED)


def _thousand(state: GroupSums, k: int, column: int) -> GroupValues:
    before, size, _, starts = _runs(state)
    taken = np.clip(k - before, 0, size)
    impressions = _per_group(taken.astype(np.float64), starts)
    value = _per_group(state.sums[:, column] * taken / size, starts)
    weight = _per_group(state.sums[:, WEIGHT], starts) / _per_group(state.sums[:, ROWS], starts)
    return GroupValues(state.group[starts], 1000 * value / impressions, impressions * weight, 0)


def _compact(group: np.ndarray, score: np.ndarray, sums: np.ndarray) -> GroupSums:
    if not len(group):
        return GroupSums(group, score, sums)
    order = np.lexsort((-score, group))
    group, score = group[order], score[order]
    first = np.concatenate([[True], (group[1:] != group[:-1]) | (score[1:] != score[:-1])])
    if first.all():
        return GroupSums(group, score, sums[order])
    return GroupSums(group[first], score[first], np.add.reduceat(sums[order], np.flatnonzero(first)))


def _runs(state: GroupSums) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per run of tied rows: places before it in its group, its size, its positives; and where groups begin."""
    starts = state.starts
    size = state.sums[:, ROWS].astype(np.int64)
    before = _within(state.sums[:, ROWS], starts).astype(np.int64) - size
    return before, size, state.sums[:, HITS], starts


def _judged(
    state: GroupSums, starts: np.ndarray, above: np.ndarray, below: np.ndarray, judged: np.ndarray
) -> GroupValues:
    weight = _per_group(state.sums[:, WEIGHT], starts) / _per_group(state.sums[:, ROWS], starts)
    value = above[judged] / below[judged]
    return GroupValues(state.group[starts][judged], value, weight[judged], int((~judged).sum()))


def _per_group(column: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(column, starts) if len(column) else np.zeros(0)


def _sizes(starts: np.ndarray, rows: int) -> np.ndarray:
    return np.diff(np.concatenate([starts, [rows]]))


def _within(column: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Running sum within each group, the row itself included."""
    if not len(column):
        return column
    total = np.cumsum(column)
    return total - np.repeat(total[starts] - column[starts], _sizes(starts, len(column)))
