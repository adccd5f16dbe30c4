"""GradNorm against finite differences of its objective, in NumPy from the paper."""

import numpy as np
import pytest

from models.balancing import GradNorm


def differences(weights, norms, losses, initial, alpha, h=1e-7):
    """The gradient of Σ|w_k n_k - Ḡ r_k^α| for w by central differences, the target held."""
    rate = losses / initial
    rate = rate / rate.mean()
    target = np.mean(weights * norms) * rate**alpha
    return np.array(
        [
            (np.abs((weights + h * e) * norms - target).sum() - np.abs((weights - h * e) * norms - target).sum())
            / (2 * h)
            for e in np.eye(len(weights))
        ]
    )


def reference(losses, grams, alpha, rate, adam, baseline=1):
    """Weights [steps, K]: those of each step, before its update."""
    tasks = losses.shape[1]
    w, m, v, used = np.ones(tasks), np.zeros(tasks), np.zeros(tasks), []
    for step, (row, gram) in enumerate(zip(losses, grams)):
        used.append(w)
        norms = np.sqrt(np.diag(gram))
        initial = losses[: min(step + 1, baseline)].mean(axis=0)
        g = differences(w, norms, row, initial, alpha) / norms.mean()
        if adam:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            g = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = np.maximum(w - rate * g, 1e-3)
        w = tasks * w / w.sum()
    return np.array(used)


def sample(tasks, steps, seed=0):
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(steps, tasks, 5)) * generator.uniform(0.2, 3.0, [tasks, 1])
    return generator.uniform(0.1, 1.0, [steps, tasks]), gradients @ np.swapaxes(gradients, 1, 2)


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("alpha, baseline", [(1.5, 1), (0.12, 1), (0.0, 1), (1.5, 4)])
def test_follows_the_paper(tasks, optimizer, alpha, baseline, drive):
    losses, grams = sample(tasks, 20, seed=tasks)
    balancer = GradNorm(name="gradnorm", alpha=alpha, optimizer=optimizer, baseline_steps=baseline)
    weights = drive(balancer, losses, grams)
    expected = reference(losses, grams, alpha, 0.025, optimizer == "adam", baseline)
    np.testing.assert_allclose(weights, expected, rtol=2e-4)
    np.testing.assert_allclose(weights.sum(axis=1), tasks, rtol=1e-5)


def test_norms_end_equal_where_all_tasks_train_alike(drive):
    norms = np.array([0.1, 1.0, 4.0])
    balancer = GradNorm(name="gradnorm", alpha=0.0, optimizer="sgd", learning_rate=0.002)
    weights = drive(balancer, np.full([3000, 3], 0.4), np.diag(norms**2))[-1]
    np.testing.assert_allclose(weights * norms / np.mean(weights * norms), 1.0, atol=0.1)


def test_the_task_that_trains_more_slowly_gains_weight(drive):
    losses = np.stack([0.9 ** np.arange(20.0), 0.99 ** np.arange(20.0)], axis=1)
    weights = drive(GradNorm(name="gradnorm"), losses)
    assert (np.diff(weights[2:, 1]) > 0).all() and weights[-1, 1] > weights[-1, 0]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_unit_of_the_losses_changes_nothing(optimizer, drive):
    losses, grams = sample(3, 15)
    balancer = GradNorm(name="gradnorm", optimizer=optimizer)
    small, large = drive(balancer, losses * 1e-6, grams * 1e-12), drive(balancer, losses * 1e9, grams * 1e18)
    np.testing.assert_allclose(small, large, rtol=1e-4)


def test_without_gradients_the_weights_stay(drive):
    weights = drive(GradNorm(name="gradnorm"), np.random.default_rng(0).uniform(size=[5, 2]), np.zeros([2, 2]))
    assert np.array_equal(weights, np.ones([5, 2]))


def test_weights_stay_above_zero(drive):
    losses, grams = sample(3, 40)
    weights = drive(GradNorm(name="gradnorm", optimizer="sgd", learning_rate=2.0), losses, grams)
    assert weights.min() > 0 and weights.min() < 0.01
