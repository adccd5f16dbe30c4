"""GradVac against the paper's algorithm on the gradients themselves, with its average cosines."""

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import GradVac, Run
from models.balancing.pcgrad import others_in_random_order

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


def vaccinate(g, orders, target, beta):
    """One step of the paper's algorithm; the update, and the new average cosines."""
    target, total = target.copy(), np.zeros(g.shape[1])
    for i, order in enumerate(orders):
        mine = g[i].copy()
        for j in order:
            size, other = np.linalg.norm(mine), np.linalg.norm(g[j])
            if size == 0 or other == 0:
                continue
            phi, wanted = mine @ g[j] / (size * other), target[i, j]
            if phi < wanted:
                up = size * (wanted * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - wanted**2))
                mine = mine + up / (other * np.sqrt(1 - wanted**2)) * g[j]
            target[i, j] = (1 - beta) * wanted + beta * phi
        total += mine
    return total, target


def drawn(tasks, seed):
    return others_in_random_order(tasks, tf.constant(seed, tf.int32)).numpy().argmax(-1).T.tolist()


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0])
def test_follows_the_papers_algorithm_over_steps(tasks, beta, weigh):
    balancer = GradVac(name="gradvac", per="model", beta=beta)
    generator, target, state = np.random.default_rng(tasks), np.zeros((tasks, tasks)), None
    raised = 0
    for step in range(12):
        g = generator.normal(size=(tasks, 2 * tasks)) + (0.5 if step % 3 else -0.2) * np.ones(2 * tasks)
        (w, _), state = weigh(balancer, np.ones(tasks), g @ g.T, state, step)
        expected, target = vaccinate(g, drawn(tasks, [0, step]), target, beta)
        np.testing.assert_allclose(w.numpy() @ g, expected, atol=1e-4 * np.abs(w).sum())
        np.testing.assert_allclose(state["target"][0], target, atol=1e-5)
        raised += np.any(w.numpy() > 1.0001)
    assert raised > 3


def test_a_raised_gradient_has_the_target_as_its_cosine(weigh):
    g = np.array([[1.0, 0.2], [-0.3, 0.8]])
    target = np.array([[0.0, 0.6], [-0.9, 0.0]])
    state = {"target": tf.constant(target[None], tf.float32)}
    w = weigh(GradVac(name="gradvac", per="model"), [1, 1], g @ g.T, state)[0].shared.numpy()
    # Task 2 is above its target of -0.9 and stays; what is left of the sum is task 1's.
    raised = w @ g - g[1]
    assert g[0] @ g[1] < 0
    np.testing.assert_allclose(raised @ g[1] / np.linalg.norm(raised) / np.linalg.norm(g[1]), 0.6, rtol=1e-5)


def test_targets_move_where_nothing_is_raised_too(weigh):
    g = np.array([[1.0, 0.0], [1.0, 1.0]])
    (w, _), state = weigh(GradVac(name="gradvac", per="model", beta=0.1), [1, 1], g @ g.T)
    np.testing.assert_allclose(w, [1, 1])
    np.testing.assert_allclose(state["target"][0], [[0, 0.1 / np.sqrt(2)], [0.1 / np.sqrt(2), 0]], rtol=1e-5)


@pytest.mark.parametrize("target", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_targets_at_the_ends_give_finite_weights(target, tasks, gradients, rounded, weigh):
    state = {"target": tf.fill([1, tasks, tasks], target)}
    for kind, g in gradients(tasks).items():
        (w, _), new = weigh(GradVac(name="gradvac", per="model"), np.ones(tasks), rounded(g), state)
        assert np.isfinite(w).all(), kind
        assert (np.abs(new["target"]) <= 1 + 1e-6).all(), kind


def test_zero_gradients_are_left_alone_and_so_are_their_targets(gradients, rounded, weigh):
    state = {"target": tf.fill([1, 3, 3], 0.5)}
    (w, _), new = weigh(GradVac(name="gradvac", per="model"), np.ones(3), rounded(gradients(3)["one zero"]), state)
    assert w[0] == 1
    assert (new["target"][0, 0] == 0.5).numpy().all() and (new["target"][0, :, 0] == 0.5).numpy().all()
    (w, _), new = weigh(GradVac(name="gradvac", per="model"), np.ones(3), np.zeros((3, 3)), state)
    assert np.array_equal(w, np.ones(3)) and np.array_equal(new["target"], state["target"])


def test_a_gradient_that_was_projected_away_records_no_cosine(weigh):
    g = np.array([[1.0, 0.0], [-1.0, 0.0], [-0.7, 0.0]])
    _, state = weigh(GradVac(name="gradvac", per="model", beta=0.5), np.ones(3), g @ g.T)
    first = drawn(3, [0, 0])[0][0]
    # Task 1 meets an opposite gradient first and is gone after.
    np.testing.assert_allclose(state["target"][0, 0, first], -0.5, rtol=1e-6)
    assert state["target"][0, 0, 3 - first] == 0


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_each_layer_is_a_model_of_its_own(tasks, weigh):
    layers = 4
    generator = np.random.default_rng(tasks)
    run, state, alone = Run(NAMES[:tasks], groups=layers), None, [None] * layers
    for step in range(4):
        g = generator.normal(size=(layers, tasks, 5)) * 10.0 ** np.arange(layers)[:, None, None]
        g[3, 0] = 0
        matrices = g @ np.swapaxes(g, 1, 2)
        balancer = GradVac(name="gradvac", beta=0.3)
        (w, own), state = weigh(balancer, np.ones(tasks), matrices, state, step, run)
        assert w.shape == [layers, tasks] and np.array_equal(own, np.ones(tasks))
        for layer in range(layers):
            per_model = GradVac(name="gradvac", per="model", beta=0.3)
            (expected, _), alone[layer] = weigh(per_model, np.ones(tasks), matrices[layer], alone[layer], step)
            np.testing.assert_allclose(w[layer], expected, rtol=1e-5)
            np.testing.assert_allclose(state["target"][layer], alone[layer]["target"][0], atol=1e-6)


def test_layers_need_the_gradients_of_parameters():
    with pytest.raises(ValueError, match="per: expected 'model' with level 'representation', got 'layer'"):
        GradVac(name="gradvac", level="representation")
    assert not GradVac(name="gradvac", level="representation", per="model").per_layer
    assert GradVac(name="gradvac").per_layer
