"""Scored rows with known truth, for tests and the benchmark of the evidence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.offline_ab.rows import ScoredRows
from models.metrics import hash_ids
from models.metrics.off_policy import greedy_policy, softmax_policy

USER_IDS = hash_ids([f"user {i}" for i in range(200_000)])


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def scored_rows(
    seed=0, users=500, rows_per_user=8, noise=(0.6, 0.6), user_effect=0.5, bias=(0.0, 0.0), price=False, devices=2
):
    """Both scorers see the true log-odds of a click with noise of their own; purchases follow clicks by chance.

    Args:
      noise: standard deviation of the noise of the baseline's and the candidate's log-odds.
      user_effect: standard deviation of a user's effect, which both scorers know nothing of.
      bias: added to the log-odds.
    """
    rng = np.random.default_rng(seed)
    n = users * rows_per_user
    user = np.repeat(np.arange(users), rows_per_user)
    effect = rng.normal(0, user_effect, users)[user]
    known = rng.normal(-1.5, 1, n)
    click = (rng.random(n) < sigmoid(known + effect)).astype(np.float32)
    purchase = (click * (rng.random(n) < 0.3)).astype(np.float32)
    scores = {}
    for side, sigma, shift in zip(("baseline", "candidate"), noise, bias):
        pctr = sigmoid(known + rng.normal(0, sigma, n) + shift)
        pcvr = sigmoid(-0.85 + rng.normal(0, 0.3, n))
        scores[side] = {
            name: v.astype(np.float32) for name, v in zip(("pctr", "pcvr", "pctcvr"), (pctr, pcvr, pctr * pcvr))
        }
    return ScoredRows(
        users=USER_IDS[user],
        requests=(user * 1000 + np.arange(n) % rows_per_user // 4).astype(np.uint64),
        labels={"click": click, "purchase": purchase},
        scores=scores,
        slices={"device": pa.array([f"d{d}" for d in rng.integers(0, devices, n)]).dictionary_encode()},
        others={"price": rng.lognormal(2, 0.5, n)} if price else {},
    )


def logged(seed, requests=3000, candidates=5, exploration=0.5, temperature=None):
    """Logs of a policy that prefers items with high logits, softened by `exploration`; and the truth of both sides.

    Returns:
      The rows, and V(π) of baseline and candidate over these very requests, from the true probabilities.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1, (requests, candidates))
    logit = truth + rng.normal(0, 1, truth.shape)
    propensity = np.exp(logit * exploration)
    propensity /= propensity.sum(axis=1, keepdims=True)
    chosen = (rng.random((requests, 1)) > np.cumsum(propensity, axis=1)).sum(axis=1)
    click = (rng.random(truth.shape) < sigmoid(truth)).astype(np.float32)
    click[np.arange(candidates) != chosen[:, None]] = 0  # only the first place can be clicked
    scores = {
        "baseline": sigmoid(truth + rng.normal(0, 1.5, truth.shape)),
        "candidate": sigmoid(truth + rng.normal(0, 0.5, truth.shape)),
    }
    request = np.repeat(np.arange(requests), candidates)
    values = []
    for p in scores.values():
        flat = p.astype(np.float32).ravel().astype(float)
        policy = (
            greedy_policy(request, requests, flat)
            if temperature is None
            else softmax_policy(request, requests, flat, temperature)
        )
        values.append((policy * sigmoid(truth).ravel()).sum() / requests)
    rows = ScoredRows(
        users=hash_ids([f"u{r // 3}" for r in range(requests)])[request],
        requests=request.astype(np.uint64),
        labels={"click": click.ravel(), "purchase": np.zeros(request.size, np.float32)},
        scores={side: {"pctr": p.ravel().astype(np.float32)} for side, p in scores.items()},
        others={
            "propensity": propensity.ravel(),
            "chosen": (np.arange(candidates) == chosen[:, None]).astype(float).ravel(),
        },
    )
    return rows, values
