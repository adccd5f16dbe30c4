"""Off-policy values of ranking by either side, from rows with propensities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.offline_ab.comparison import standard_normal_bound
from components.offline_ab.config import EvidenceConfig, OffPolicyConfig
from components.offline_ab.document import Estimate, PolicyValue
from components.offline_ab.rows import CHOSEN, PROPENSITY, ScoredRows
from models.metrics import Statistic, replicate
from models.metrics.off_policy import (
    ESTIMATORS,
    LoggedChoices,
    effective_sample_size,
    estimator_terms,
    greedy_policy,
    importance_weights,
    softmax_policy,
)
from models.section import UserError
from models.tasks import Output

_MEAN_WEIGHT_DEVIATIONS = 5.0


def off_policy_values(rows: ScoredRows, outputs: Sequence[Output], config: EvidenceConfig) -> list[PolicyValue]:
    """Estimates of the mean reward per request of ranking by the candidate, and by the baseline beside it.

    The estimand and the class of policies are those of `models.metrics.off_policy`. Items are ranked by the output over
    all impressions whose label is the reward. The reward's model is the baseline's score where there is one, else the
    candidate's: trained before these rows, so independent of their rewards. Intervals are clustered by user.

    Raises:
      UserError: for propensities that cannot be, and requests without exactly one chosen row.
    """
    settings = config.off_policy
    if settings is None:
        return []
    output = next((o for o in outputs if o.label == settings.reward and o.given is None), None)
    if output is None:
        raise UserError(
            f"evidence.off_policy.reward: expected scores over all impressions for '{settings.reward}', found none"
        )
    known = ~np.isnan(rows.labels[output.label])
    order = np.argsort(rows.requests[known], kind="stable")
    index = np.flatnonzero(known)[order]
    choices = _choices(rows, index, settings, output)
    hashes, user = np.unique(rows.users[index][choices.chosen], return_inverse=True)

    scores = [rows.scores[side][output.name][index].astype(np.float64) for side in rows.sides]
    policies = [_policy(choices, s, settings) for s in scores]
    terms = [estimator_terms(choices, policy, scores[0], settings.clip) for policy in policies]
    weights = importance_weights(choices, policies[-1])
    size = effective_sample_size(weights)
    refused = _refusal(weights, size, settings)
    z = standard_normal_bound(config.confidence)
    found = []
    for name in ESTIMATORS:
        estimates: list[Estimate | None] = [None, None, None]
        # Clipping is what the other two are for.
        if refused is None:
            columns = np.concatenate([t[name] for t in terms], axis=1)
            by_user = np.stack([np.bincount(user, c, len(hashes)) for c in columns.T], axis=1)
            statistic = Statistic(np.arange(len(hashes)), by_user, _ratios)
            (draws,) = replicate([statistic], hashes, config.replicates, config.seed)
            values = _ratios(columns.sum(axis=0))
            estimates = _estimates(values, draws, z)
        baseline, candidate, difference = estimates
        found.append(
            PolicyValue(
                estimator=name,
                reward=settings.reward,
                logged=float(choices.reward.mean()),
                baseline=baseline,
                candidate=candidate,
                difference=difference,
                effective_sample_size=size,
                effective_share=size / choices.count,
                largest_weight=float(weights.max()),
                requests=choices.count,
                refused=refused,
            )
        )
    return found


def _choices(rows: ScoredRows, index: np.ndarray, settings: OffPolicyConfig, output: Output) -> LoggedChoices:
    for name, column in ((PROPENSITY, settings.propensity), (CHOSEN, settings.chosen)):
        if name not in rows.others:
            raise UserError(f"evidence.off_policy: no row has a value in column '{column}'")
    _, request = np.unique(rows.requests[index], return_inverse=True)
    chosen = np.flatnonzero(rows.others[CHOSEN][index] == 1)
    count = int(request.max(initial=-1)) + 1
    per_request = np.bincount(request[chosen], minlength=count)
    if count == 0 or not (per_request == 1).all():
        raise UserError(
            f"evidence.off_policy.chosen: expected one row with 1 in column '{settings.chosen}' in every request, "
            f"found {int((per_request == 0).sum()):,} of {count:,} requests without, and "
            f"{int((per_request > 1).sum()):,} with more"
        )
    propensity = rows.others[PROPENSITY][index][chosen].astype(np.float64)
    good = (propensity > 0) & (propensity <= 1)
    if not good.all():
        raise UserError(
            f"evidence.off_policy.propensity: expected a probability above 0 in column '{settings.propensity}' of "
            f"every chosen row, found {propensity[~good][0]:g} and {int((~good).sum()):,} such rows"
        )
    reward = rows.labels[output.label][index][chosen].astype(np.float64)
    return LoggedChoices(request, count, chosen, propensity, reward)


def _policy(choices: LoggedChoices, scores: np.ndarray, settings: OffPolicyConfig) -> np.ndarray:
    if settings.temperature is None:
        return greedy_policy(choices.request, choices.count, scores)
    return softmax_policy(choices.request, choices.count, scores, settings.temperature)


def _refusal(weights: np.ndarray, size: float, settings: OffPolicyConfig) -> str | None:
    share = size / len(weights)
    if share < settings.minimum_effective_share:
        return (
            f"the weights explode: {len(weights):,} requests are worth {size:.1f} (effective share {share:.2g}, "
            f"expected at least {settings.minimum_effective_share:g}); the logging policy hardly ever chose what the "
            f"candidate would choose"
        )
    # Weights have the mean 1 where propensities are right and every choice was possible.
    deviation = (weights.mean() - 1) / (weights.std(ddof=1) / np.sqrt(len(weights)) + 1e-12)
    if abs(deviation) > _MEAN_WEIGHT_DEVIATIONS and abs(weights.mean() - 1) > 0.01:
        return (
            f"the mean weight is {weights.mean():.3g}, expected 1 (off by {abs(deviation):.1f} standard errors): the "
            f"propensities are wrong, or some choices of the candidate were impossible in the logs"
        )
    return None


def _ratios(totals: np.ndarray) -> np.ndarray:
    """Estimates of each side from totals [..., 2 · sides]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals[..., 0::2] / totals[..., 1::2]


def _estimates(values: np.ndarray, draws: np.ndarray, z: float) -> list[Estimate | None]:
    def around(value: float, of: np.ndarray) -> Estimate:
        half = z * float(np.nanstd(of, ddof=1))
        return Estimate(value=float(value), low=float(value) - half, high=float(value) + half)

    candidate = around(values[-1], draws[:, -1])
    if len(values) == 1:
        return [None, candidate, None]
    return [around(values[0], draws[:, 0]), candidate, around(values[1] - values[0], draws[:, 1] - draws[:, 0])]
