import numpy as np
import pytest


def sample(rows=600, seed=0, tied=True, users=40, rate=-1.0):
    """Correlated labels and scores with ties, weights, users, requests of a user and prices."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-(rate + quality)))).astype(np.float64)
    scores = 1 / (1 + np.exp(-(rate + 0.8 * quality + 0.5 * rng.normal(size=rows))))
    if tied:
        scores = np.round(scores, 2)
    return {
        "labels": labels,
        "scores": scores,
        "weights": rng.choice([0.0, 0.5, 1.0, 3.0], rows),
        "users": rng.integers(0, users, rows),
        "prices": np.round(rng.lognormal(2, 1, rows), 2),
    }


@pytest.fixture
def rows():
    return sample()


def shards(columns, cut, seed=1):
    """The rows in random order, in `cut` shards of uneven size."""
    rng = np.random.default_rng(seed)
    n = len(next(iter(columns.values())))
    order = rng.permutation(n)
    for part in np.split(order, np.sort(rng.integers(0, n + 1, cut - 1))):
        yield {name: values[part] for name, values in columns.items()}
