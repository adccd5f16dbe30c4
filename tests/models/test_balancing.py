"""Balancers: one contract for all, and each against its equation."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter
from scipy.optimize import minimize_scalar

from models.balancing import AnyBalancer, Needs, Static, Uncertainty

ALL = {
    "static": Static(name="static"),
    "static, given": Static(name="static", weights={"a": 2.0}),
    "uncertainty": Uncertainty(name="uncertainty"),
    "uncertainty, log1p": Uncertainty(name="uncertainty", variant="log1p"),
}
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


def run(balancer, losses, gram=None, state=None, step=0, names=None):
    k = len(losses)
    names = names or NAMES[:k]
    state = balancer.initial_state(names) if state is None else state
    gram = np.eye(k) if gram is None else gram
    return balancer.weigh(
        tf.constant(losses, tf.float32),
        tf.constant(gram, tf.float32),
        state,
        step=tf.constant(step, tf.int64),
        seed=tf.constant([0, step], tf.int32),
    )


@pytest.mark.parametrize("balancer", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10, 1e15])
def test_contract(balancer, tasks, scale):
    losses = np.random.default_rng(tasks).uniform(0.1, 2.0, tasks) * scale
    state = balancer.initial_state(NAMES[:tasks])
    graph = tf.function(lambda x, s, t: balancer.weigh(x, tf.eye(tasks), s, step=t, seed=tf.zeros([2], tf.int32)))
    for step in range(3):
        weights, new_state = graph(tf.constant(losses, tf.float32), state, tf.constant(step, tf.int64))
        for w in weights:
            assert w.shape == [tasks] and w.dtype == tf.float32
            assert np.isfinite(w).all() and (w.numpy() >= 0).all()
        assert {n: (s.shape, s.dtype) for n, s in new_state.items()} == {
            n: (s.shape, s.dtype) for n, s in state.items()
        }
        assert all(np.isfinite(s).all() for s in new_state.values())
        state = new_state


@pytest.mark.parametrize("balancer", ALL.values(), ids=ALL.keys())
def test_configuration_survives_json(balancer):
    assert TypeAdapter(AnyBalancer).validate_json(balancer.canonical_json()) == balancer


@pytest.mark.parametrize("balancer", [b for b in ALL.values() if b.needs is Needs.LOSSES])
def test_loss_weighting_scales_a_task_as_a_whole(balancer):
    weights, _ = run(balancer, [0.3, 0.1, 0.7])
    assert np.array_equal(weights.shared, weights.own)


@pytest.mark.parametrize("name", ["static", "uncertainty", "uncertainty, log1p"])
def test_equal_losses_give_equal_weights_and_tasks_can_change_places(name):
    balancer = ALL[name]
    state = None
    for step in range(5):
        weights, state = run(balancer, [0.4, 0.4, 0.4], state=state, step=step)
        assert np.ptp(weights.own) == 0
    order = np.array([2, 0, 1])
    losses, states = np.array([0.3, 0.1, 0.7]), [None, None]
    for step in range(5):
        first, states[0] = run(balancer, losses, state=states[0], step=step)
        second, states[1] = run(balancer, losses[order], state=states[1], step=step)
        np.testing.assert_allclose(np.array(first.own)[order], second.own, rtol=1e-6)


def test_static_weights_are_those_given_and_1_elsewhere():
    weights, _ = run(ALL["static, given"], [0.5, 0.5, 0.5])
    assert np.array_equal(weights.shared, [2.0, 1.0, 1.0])


def test_static_weights_of_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match=r"weights: expected names of tasks \(ctr, cvr\), got 'a'"):
        ALL["static, given"].initial_state(("ctr", "cvr"))


def test_uncertainty_starts_at_the_plain_sum():
    weights, _ = run(ALL["uncertainty"], [0.3, 0.02])
    assert np.array_equal(weights.own, [1.0, 1.0])


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty, log1p"])
def test_uncertainty_step_is_the_gradient_of_the_papers_objective(name):
    balancer = ALL[name]
    losses = np.array([0.3, 0.02])

    def objective(s):
        if balancer.variant == "kendall":
            return float(np.sum(np.exp(-s) * losses + s / 2))
        return float(np.sum(losses / (2 * np.exp(s)) + np.log1p(np.exp(s))))

    s = np.array([0.4, -0.7])
    _, state = run(balancer, losses, state={"log_variance": tf.constant(s, tf.float32)})
    h = 1e-5
    gradient = [(objective(s + h * e) - objective(s - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(state["log_variance"], s - balancer.learning_rate * np.array(gradient), atol=1e-6)


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty, log1p"])
def test_uncertainty_comes_to_rest_at_the_minimum_of_the_objective(name):
    loss = 0.2
    balancer = ALL[name].model_copy(update={"learning_rate": 0.5})
    if balancer.variant == "kendall":
        best = minimize_scalar(lambda s: np.exp(-s) * loss + s / 2, bounds=(-10, 10), method="bounded").x
    else:
        best = minimize_scalar(
            lambda s: loss / (2 * np.exp(s)) + np.log1p(np.exp(s)), bounds=(-10, 10), method="bounded"
        ).x
    state = None
    for step in range(400):
        _, state = run(balancer, [loss, loss], state=state, step=step)
    np.testing.assert_allclose(state["log_variance"], [best, best], atol=1e-3)


def test_the_bound_keeps_a_rare_tasks_weight_finite():
    balancer = Uncertainty(name="uncertainty", bound=2.0, learning_rate=1.0)
    state = None
    for step in range(100):
        weights, state = run(balancer, [1e-9, 0.5], state=state, step=step)
    np.testing.assert_allclose(weights.own[0], np.exp(2.0), rtol=1e-5)
