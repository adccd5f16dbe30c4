"""Uncertainty weighting against finite differences and the minimum of its objective."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize_scalar

from models.balancing import Uncertainty

VARIANTS = ("kendall", "log1p")


def objective(variant, s, losses):
    """Of the papers, as a function of s = log σ²."""
    if variant == "kendall":
        return float(np.sum(np.exp(-s) * losses + s / 2))
    return float(np.sum(losses / (2 * np.exp(s)) + np.log1p(np.exp(s))))


def test_starts_at_the_plain_sum(weigh):
    weights, _ = weigh(Uncertainty(name="uncertainty"), [0.3, 0.02])
    assert np.array_equal(weights.own, [1.0, 1.0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_the_objectives_gradient_for_the_losses(variant, weigh):
    balancer = Uncertainty(name="uncertainty", variant=variant)
    s, losses, h = np.array([0.4, -0.7]), np.array([0.3, 0.02]), 1e-5
    weights, _ = weigh(balancer, losses, state={"log_variance": tf.constant(s, tf.float32)})
    gradient = [
        (objective(variant, s, losses + h * e) - objective(variant, s, losses - h * e)) / (2 * h) for e in np.eye(2)
    ]
    np.testing.assert_allclose(weights.own, gradient, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_the_gradient_of_the_papers_objective(variant, weigh):
    balancer = Uncertainty(name="uncertainty", variant=variant)
    s, losses, h = np.array([0.4, -0.7]), np.array([0.3, 0.02]), 1e-5
    _, state = weigh(balancer, losses, state={"log_variance": tf.constant(s, tf.float32)})
    gradient = [
        (objective(variant, s + h * e, losses) - objective(variant, s - h * e, losses)) / (2 * h) for e in np.eye(2)
    ]
    np.testing.assert_allclose(state["log_variance"], s - balancer.learning_rate * np.array(gradient), atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_comes_to_rest_at_the_minimum_of_the_objective(variant, weigh):
    balancer = Uncertainty(name="uncertainty", variant=variant, learning_rate=0.5)
    best = minimize_scalar(lambda s: objective(variant, s, 0.2), bounds=(-10, 10), method="bounded").x
    state = None
    for step in range(400):
        _, state = weigh(balancer, [0.2, 0.2], state=state, step=step)
    np.testing.assert_allclose(state["log_variance"], [best, best], atol=1e-3)


def test_the_bound_keeps_a_rare_tasks_weight_finite(weigh):
    balancer = Uncertainty(name="uncertainty", bound=2.0, learning_rate=1.0)
    state = None
    for step in range(100):
        weights, state = weigh(balancer, [1e-9, 0.5], state=state, step=step)
    np.testing.assert_allclose(weights.own[0], np.exp(2.0), rtol=1e-5)
