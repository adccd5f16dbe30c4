"""What a sweep found, with how sure it is: means over seeds, paired differences, the Pareto front, a recommendation.

Two things make the AUC of a point uncertain: which users the evaluation days have, and how the training happened to
go. Users are drawn by a Poisson bootstrap, the same draws for every point, so that differences are paired. The spread
over seeds is estimated from all points together, because one point has few of them, and added to each replicate as
normal noise with the variance of a mean over the seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.metrics.bootstrap import Statistic, replicate
from models.metrics.exact import auc_rows
from models.tasks import Output
from pipeline.sweep.rows import Columns

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Replicates:
    """The AUC of every point in every replicate.

    Attributes:
      mean: float64 [points, objectives], means over the seeds.
      deviation: float64 [points, objectives], standard deviations over the seeds; NaN with one seed.
      drawn: float64 [replicates, points, objectives].
      of_seeds: float64 [objectives], standard deviation over seeds from all points together; NaN with one seed.
    """

    mean: np.ndarray
    deviation: np.ndarray
    drawn: np.ndarray
    of_seeds: np.ndarray

    def difference(self, point: int, other: int, objective: int) -> Interval:
        """The AUC of a point minus that of another, paired."""
        drawn = self.drawn[:, point, objective] - self.drawn[:, other, objective]
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Interval(float(self.mean[point, objective] - self.mean[other, objective]), float(low), float(high))


def resample(
    objectives: tuple[Output, ...],
    columns: Columns,
    scores: list[list[dict[str, np.ndarray]]],
    replicates: int,
    seed: int = 0,
) -> Replicates:
    """Bootstraps the AUC of all points over the users.

    Args:
      objectives: by what points are compared, each judged on all rows.
      columns: the evaluation rows.
      scores: per point and seed the scores [rows] by name of the output; an output that a model of one task
        lacks gives NaN.
      replicates: how many.
      seed: of the draws.
    """
    users = np.asarray(columns["@user"])
    present, where = np.unique(users, return_inverse=True)
    mean = np.full((len(scores), len(objectives)), np.nan)
    deviation = np.full_like(mean, np.nan)
    drawn = np.full((replicates, *mean.shape), np.nan)
    statistics, places = [], []
    for o, output in enumerate(objectives):
        y = np.asarray(columns[output.label], np.float64)
        ones = np.ones(len(y))
        for p, seeds in enumerate(scores):
            found = [auc_rows(y, s[output.name].astype(np.float64), ones) for s in seeds if output.name in s]
            if not found:
                continue
            aucs = np.array([value for value, _ in found])
            mean[p, o] = aucs.mean()
            if len(aucs) > 1:
                deviation[p, o] = aucs.std(ddof=1)
            # The expansion is linear in the placements: that of the mean over seeds is the mean of theirs.
            terms = np.mean([terms for _, terms in found], axis=0)
            per_user = np.stack([np.bincount(where, column, len(present)) for column in terms.T], axis=1)
            statistics.append(Statistic(np.arange(len(present)), per_user, _auc_of_totals(mean[p, o])))
            places.append((p, o))
    for (p, o), values in zip(places, replicate(statistics, present.astype(np.uint64), replicates, seed)):
        drawn[:, p, o] = values[:, 0]
    of_seeds = np.array([_pooled(deviation[:, o]) for o in range(len(objectives))])
    # Models of different configuration share no luck: each point has noise of its own.
    noise = np.random.default_rng(seed).standard_normal(drawn.shape)
    drawn += noise * np.nan_to_num(of_seeds) / np.sqrt(max(1, max((len(s) for s in scores), default=1)))
    return Replicates(mean, deviation, drawn, of_seeds)


def _auc_of_totals(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def of(totals: np.ndarray) -> np.ndarray:
        return (totals[..., 0] / totals[..., 1] + totals[..., 2] / totals[..., 3] - value)[..., None]

    return of


def _pooled(deviations: np.ndarray) -> float:
    known = deviations[np.isfinite(deviations)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else float("nan")


def pareto(values: np.ndarray) -> np.ndarray:
    """Which points no other beats: at least as good in all objectives and better in one.

    Args:
      values: [points, objectives], higher is better; points with NaN are never on the front.
    """
    known = np.isfinite(values).all(axis=1)
    compared = np.where(known[:, None], values, -np.inf)
    at_least = (compared[None, :, :] >= compared[:, None, :]).all(axis=2)
    better = (compared[None, :, :] > compared[:, None, :]).any(axis=2)
    return known & ~(at_least & better).any(axis=1)


@dataclass(frozen=True)
class Recommendation:
    """What to train.

    Attributes:
      point: number of the point.
      reference: number of the point that is kept where nothing better is shown: the best with tuned static weights.
      differences: per objective, of the point to the reference; zero where the point is the reference.
      detectable: per objective, about the smallest difference to the reference that the sweep can tell from none
        while it looks at all points; empty without other points.
      qualified: numbers of the points that are shown to be better.
      best: per point the share of replicates in which its mean over the objectives is highest.
    """

    point: int
    reference: int
    differences: tuple[Interval, ...]
    detectable: tuple[float, ...]
    qualified: tuple[int, ...]
    best: np.ndarray


def recommend(found: Replicates, tuned: list[int], candidates: list[int], tolerance: float) -> Recommendation:
    """The candidate that is shown to be better than the reference, or the reference: the best with tuned weights.

    Better means: with 95 % confidence over all candidates and objectives together (the largest of the studentised
    differences is bootstrapped), it loses at most `tolerance` AUC on every objective and gains on one. Of several, the
    one with the largest mean difference.

    Args:
      found: the replicates.
      tuned: the points with tuned static weights, at least one.
      candidates: the other points, without models of one task.
      tolerance: AUC.
    """
    # The best of them on the rows that judge all: luck in that makes it harder to beat, not easier.
    reference = max(tuned, key=lambda p: found.mean[p].mean())
    others = [c for c in candidates if c != reference]
    everyone = [reference, *others]
    totals = found.drawn[:, everyone].mean(axis=2)
    best = np.bincount(np.array(everyone)[totals.argmax(axis=1)], minlength=len(found.mean)) / len(totals)
    objectives = found.mean.shape[1]
    none = tuple(Interval(0.0, 0.0, 0.0) for _ in range(objectives))
    if not others:
        return Recommendation(reference, reference, none, (), (), best)
    drawn = found.drawn[:, others] - found.drawn[:, [reference]]
    value = found.mean[others] - found.mean[reference]
    deviation = drawn.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        studentised = np.where(deviation > 0, np.abs(drawn - drawn.mean(axis=0)) / deviation, 0.0)
    factor = float(np.quantile(studentised.max(axis=(1, 2)), CONFIDENCE))
    low = value - factor * deviation
    qualifies = (low > -tolerance).all(axis=1) & (low > 0).any(axis=1)
    detectable = tuple(float(d) for d in factor * np.median(deviation, axis=0))
    qualified = tuple(others[i] for i in np.flatnonzero(qualifies))
    if not qualified:
        return Recommendation(reference, reference, none, detectable, (), best)
    chosen = max(qualified, key=lambda p: found.mean[p].mean())
    at = others.index(chosen)
    differences = tuple(
        Interval(float(v), float(v - factor * d), float(v + factor * d)) for v, d in zip(value[at], deviation[at])
    )
    return Recommendation(chosen, reference, differences, detectable, qualified, best)
