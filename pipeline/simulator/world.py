"""The simulated world: who the users are, what the items are, and how likely clicks and purchases are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.simulator.config import SimulationConfig

DEVICES = ("mobile", "desktop", "tablet")
COUNTRIES = ("DE", "FR", "GB", "PL", "US", "JP")
AGE_GROUPS = ("18-24", "25-34", "35-44", "45-54", "55+")

_DIMENSION = 6
_CALIBRATION_ROWS = 200_000

# Weights of the logit's parts, each of which has a standard deviation of about 1. They make the best
# possible ranker's AUC about 0.78 for clicks, with half of the variance in what a user likes.
_CTR = {"affinity": 0.75, "item": 0.45, "user": 0.35, "price": -0.25, "position": -0.6, "device": 0.2, "hour": 0.15}
_CVR = {"affinity": 0.75, "item": 0.45, "user": 0.40, "price": -0.45, "position": -0.05, "device": 0.3, "hour": 0.05}
_CTR_DEVICE = np.array([0.2, -1.0, 0.6])
_CVR_DEVICE = np.array([-0.4, 1.4, 0.2])


@dataclass(frozen=True)
class Exposures:
    """Exposures in columns, all of one length: indices into the world's users, items and devices.

    Attributes:
      request: number of the request, growing with time of generation.
      position: 1 for the first item of a request.
      time: epoch ms.
      hour: local hour, 0 to 23.
    """

    request: np.ndarray
    user: np.ndarray
    item: np.ndarray
    device: np.ndarray
    position: np.ndarray
    time: np.ndarray
    hour: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> Exposures:
        return Exposures(**{name: column[rows] for name, column in vars(self).items()})


class World:
    """Latent vectors and biases, drawn once from the seed.

    A user's vector is partly that of the user's age group and an item's partly that of its category, so
    that something can be learned of users and items that are rarely seen. What makes for a purchase is
    a mixture of what makes for a click and of something of its own, with the configured correlation.
    """

    def __init__(self, config: SimulationConfig):
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        users, items, categories = config.users, config.items, config.categories

        self.age_group = rng.integers(0, len(AGE_GROUPS), users)
        self.country = rng.choice(len(COUNTRIES), users, p=_falling(len(COUNTRIES)))
        self.device = rng.choice(len(DEVICES), users, p=(0.7, 0.22, 0.08))
        self.activity = np.cumsum(rng.gamma(0.8, 1.0, users) + 0.05)
        self.activity /= self.activity[-1]

        # Items are numbered category by category, so that a category is a range of `_popularity`.
        self.category = np.sort(rng.choice(categories, items, p=_falling(categories)))
        self._popularity = np.concatenate([[0.0], np.cumsum(rng.pareto(1.5, items) + 0.2)])
        self._category_edges = np.searchsorted(self.category, np.arange(categories + 1))
        log_price = rng.normal(3.0, 0.7, categories)[self.category] + rng.normal(0, 0.5, items)
        self.price = np.maximum(np.round(np.exp(log_price), 2), 0.01)
        self._price = _standard(np.log(self.price))
        self.seller = rng.choice(max(items // 20, 1), items)

        own_vectors = [self._vectors(rng) for _ in range(2)]
        own_item = rng.normal(size=(2, items))
        own_user = rng.normal(size=(2, users))
        rho = config.task_correlation
        mix = np.sqrt(1 - rho * rho)
        self._click_vectors, self._other_vectors = own_vectors
        self._rho, self._mix = rho, mix
        self._item_bias = (own_item[0], rho * own_item[0] + mix * own_item[1])
        self._user_bias = (own_user[0], rho * own_user[0] + mix * own_user[1])

        # Which categories a user is shown: a recommender that half knows what the user likes.
        centroids = self._click_vectors[2]
        taste = self._click_vectors[0] @ centroids.T
        taste *= 1.2 / max(taste.std(), 1e-9)
        weight = np.exp(taste) * np.diff(self._popularity[self._category_edges])
        self._shown = np.cumsum(weight, axis=1)
        self._shown /= self._shown[:, -1:]

        self._intercepts = (0.0, 0.0)
        self._affinity_scale = 1.0, 1.0

    def _vectors(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors of users [users, d], of items [items, d] and of categories [categories, d]."""
        groups = rng.normal(size=(len(AGE_GROUPS), _DIMENSION))
        centroids = rng.normal(size=(self.config.categories, _DIMENSION))
        user = 0.7 * groups[self.age_group] + 0.7 * rng.normal(size=(self.config.users, _DIMENSION))
        item = 0.8 * centroids[self.category] + 0.6 * rng.normal(size=(self.config.items, _DIMENSION))
        return user, item, centroids

    def draw_items(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws an item to show to each user: a category that suits, then an item by popularity."""
        category = np.empty(len(users), np.int64)
        for start in range(0, len(users), 65536):  # bounds the [rows, categories] comparison
            rows = slice(start, start + 65536)
            draws = rng.random(len(users[rows]))
            category[rows] = (self._shown[users[rows]] <= draws[:, None]).sum(axis=1)
        edges = self._category_edges
        low, high = self._popularity[edges[category]], self._popularity[edges[category + 1]]
        draws = low + (high - low) * rng.random(len(users))
        items = np.searchsorted(self._popularity, draws, side="right") - 1
        return np.clip(items, edges[category], edges[category + 1] - 1)

    def calibrate(self, sample: Exposures) -> None:
        """Scales the affinities and sets the intercepts so that the sample has the configured base rates."""
        sample = sample.take(np.arange(min(len(sample), _CALIBRATION_ROWS)))
        click, other = self._affinities(sample)
        self._affinity_scale = 1 / max(click.std(), 1e-9), 1 / max(other.std(), 1e-9)
        logits = self._logits(sample)
        everywhere = np.ones(len(sample))
        ctr_intercept = _intercept(logits[0], everywhere, self.config.ctr)
        clicked = _sigmoid(logits[0] + ctr_intercept)
        self._intercepts = ctr_intercept, _intercept(logits[1], clicked, self.config.cvr)

    def probabilities(self, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
        """P(click) and P(purchase | click) of each exposure, within the windows. [n] float64 each."""
        ctr, cvr = self._logits(exposures)
        return _sigmoid(ctr + self._intercepts[0]), _sigmoid(cvr + self._intercepts[1])

    def _affinities(self, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
        user, item = exposures.user, exposures.item
        return tuple(
            np.einsum("nd,nd->n", vectors[0][user], vectors[1][item])
            for vectors in (self._click_vectors, self._other_vectors)
        )

    def _logits(self, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
        click, other = (a * s for a, s in zip(self._affinities(exposures), self._affinity_scale))
        affinity = click, self._rho * click + self._mix * other
        evening = np.sin((exposures.hour - 14) / 24 * 2 * np.pi)
        logits = []
        for k, (weight, device) in enumerate(((_CTR, _CTR_DEVICE), (_CVR, _CVR_DEVICE))):
            logits.append(
                weight["affinity"] * affinity[k]
                + weight["item"] * self._item_bias[k][exposures.item]
                + weight["user"] * self._user_bias[k][exposures.user]
                + weight["price"] * self._price[exposures.item]
                + weight["position"] * np.log(exposures.position)
                + weight["device"] * device[exposures.device]
                + weight["hour"] * evening
            )
        return logits[0], logits[1]


def _falling(n: int) -> np.ndarray:
    weight = 1 / np.arange(2, n + 2)
    return weight / weight.sum()


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / max(x.std(), 1e-9)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _intercept(logits: np.ndarray, weights: np.ndarray, rate: float) -> float:
    """Finds b with weighted mean sigmoid(logits + b) = rate, by bisection."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.average(_sigmoid(logits + middle), weights=weights) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
