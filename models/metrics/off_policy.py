"""Off-policy values of a ranking from logs with known propensities.

Estimand. A request x comes with a set of candidates, all of them logged. The logging policy put one of them, a, first,
with the known probability p(a | x), and its reward r was observed. The value of a policy π that chooses among the same
candidates is V(π) = E_x Σ_a π(a | x) E[r | x, a]: the mean reward per request of the item put first. The policies here
put first the candidate with the highest score (tied ones alike), or draw one from the softmax of the scores. What is
shown in the other places is taken to have no effect on the reward of the first.

It needs p(a | x) > 0 wherever π(a | x) > 0: a greedy policy on logs of a deterministic one has no such estimate.

With w = π(a | x) / p(a | x) and q(x, a) a model of the reward:
- ips    mean of w r. Unbiased.
- snips  Σ w r / Σ w. Consistent; keeps within the range of r, and varies less. (Swaminathan and Joachims, NIPS 2015)
- dr     mean of Σ_a π(a | x) q(x, a) + w (r - q(x, a)). Unbiased for any q; varies less the better q is.
         (Dudík, Langford and Li, ICML 2011)
- clipped_ips, clipped_dr  the same with w at most a bound: biased towards 0, or towards q, and steadier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ESTIMATORS = ("ips", "snips", "dr", "clipped_ips", "clipped_dr")


@dataclass(frozen=True)
class LoggedChoices:
    """Rows of requests whose first place was filled at random.

    Attributes:
      request: code of each row's request, from 0 to `count` - 1, ascending.
      count: number of requests.
      chosen: index of the row put first, per request.
      propensity: with which it was, per request.
      reward: of it, per request.
    """

    request: np.ndarray
    count: int
    chosen: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray


def greedy_policy(request: np.ndarray, count: int, scores: np.ndarray) -> np.ndarray:
    """Probability of each row to be put first: the highest score of its request, tied ones alike."""
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, request, scores)
    first = (scores == highest[request]).astype(np.float64)
    return first / np.bincount(request, first, count)[request]


def softmax_policy(request: np.ndarray, count: int, scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of each row to be put first: softmax over its request of log-odds(score) / temperature."""
    p = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    logits = (np.log(p) - np.log1p(-p)) / temperature
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, request, logits)
    odds = np.exp(logits - highest[request])
    return odds / np.bincount(request, odds, count)[request]


def importance_weights(choices: LoggedChoices, policy: np.ndarray) -> np.ndarray:
    """w = π(a | x) / p(a | x) of the row put first, per request."""
    return policy[choices.chosen] / choices.propensity


def effective_sample_size(weights: np.ndarray) -> float:
    """(Σw)² / Σw²: how many requests of weight 1 would say as much."""
    squares = float(weights @ weights)
    return float(weights.sum() ** 2 / squares) if squares > 0 else 0.0


def estimator_terms(
    choices: LoggedChoices, policy: np.ndarray, predicted: np.ndarray, clip: float
) -> dict[str, np.ndarray]:
    """Per estimator, what each request adds to numerator and denominator, [requests, 2]; the estimate is their ratio.

    Args:
      choices: the logged rows.
      policy: π(a | x) of every row.
      predicted: q(x, a) of every row; known before the rewards were.
      clip: largest weight of the clipped estimators.
    """
    w = importance_weights(choices, policy)
    clipped = np.minimum(w, clip)
    ones = np.ones(choices.count)
    direct = np.bincount(choices.request, policy * predicted, choices.count)
    residual = choices.reward - predicted[choices.chosen]
    numerators = {
        "ips": (w * choices.reward, ones),
        "snips": (w * choices.reward, w),
        "dr": (direct + w * residual, ones),
        "clipped_ips": (clipped * choices.reward, ones),
        "clipped_dr": (direct + clipped * residual, ones),
    }
    return {name: np.stack(terms, axis=1) for name, terms in numerators.items()}
