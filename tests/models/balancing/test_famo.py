"""FAMO against Algorithm 1 of its paper, with finite differences for the logits' gradient."""

import numpy as np
import pytest

from models.balancing import FAMO, Run


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def differences(logits, improvement, gamma, h=1e-6):
    """The gradient of Σ z_k(ξ) (log ℓ_k before - after) + γ/2 ‖ξ‖² by central differences."""

    def objective(x):
        return softmax(x) @ improvement + gamma / 2 * x @ x

    return np.array([(objective(logits + h * e) - objective(logits - h * e)) / (2 * h) for e in np.eye(len(logits))])


def reference(losses, rate, gamma, lowest=0.0):
    """Weights [steps, K]: the logits move as soon as the losses after an update are known."""
    tasks = losses.shape[1]
    above = losses - lowest
    logits, m, v, used = np.zeros(tasks), np.zeros(tasks), np.zeros(tasks), []
    for t, now in enumerate(above):
        if t:
            g = differences(logits, np.log(above[t - 1]) - np.log(now), gamma)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            logits = logits - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        z = softmax(logits)
        used.append(z / now / np.sum(z / now))
    return np.array(used)


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("rate, gamma", [(0.025, 0.001), (0.1, 0.0), (0.1, 0.5)])
def test_follows_the_paper(tasks, rate, gamma, drive):
    losses = np.random.default_rng(tasks).uniform(0.05, 1.0, [40, tasks])
    weights = drive(FAMO(name="famo", learning_rate=rate, gamma=gamma), losses)
    np.testing.assert_allclose(weights, reference(losses, rate, gamma), rtol=1e-3)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)


def test_the_lowest_losses_are_taken_off(drive):
    losses = np.random.default_rng(3).uniform(0.5, 1.0, [20, 3])
    balancer = FAMO(name="famo", lowest={"a": 0.2, "c": -1.0})
    expected = reference(losses, 0.025, 0.001, np.array([0.2, 0.0, -1.0]))
    np.testing.assert_allclose(drive(balancer, losses), expected, rtol=1e-3)


def test_the_first_weights_are_the_gradient_of_the_mean_logarithm(drive):
    weights = drive(FAMO(name="famo"), np.array([[0.5, 0.1, 0.25]]))[0]
    np.testing.assert_allclose(weights, np.array([2.0, 10.0, 4.0]) / 16.0, rtol=1e-5)


def test_the_task_that_improves_less_gains_weight(drive, weigh):
    balancer, state = FAMO(name="famo"), None
    for step in range(30):
        _, state = weigh(balancer, [0.5 * 0.9**step, 0.5 * 0.99**step], state=state, step=step)
    assert state["logits"][1] > 0.3 > -0.3 > state["logits"][0]


def test_the_unit_of_the_losses_changes_nothing(drive):
    losses = np.random.default_rng(0).uniform(0.1, 1.0, [20, 3])
    np.testing.assert_allclose(drive(FAMO(name="famo"), losses * 1e9), drive(FAMO(name="famo"), losses), rtol=1e-3)


def test_lowest_losses_of_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match=r"lowest: expected names of tasks \(ctr, cvr\), got 'a'"):
        FAMO(name="famo", lowest={"a": 0.1}).initial_state(Run(("ctr", "cvr")))
