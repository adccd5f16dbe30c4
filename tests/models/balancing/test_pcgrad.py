"""PCGrad against the paper's algorithm on the gradients themselves."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import PCGrad
from models.balancing.pcgrad import others_in_random_order


def surgery(g, orders):
    """Algorithm 1 of the paper: orders[i] lists the tasks that i meets."""
    total = np.zeros(g.shape[1])
    for i, order in enumerate(orders):
        mine = g[i].copy()
        for j in order:
            if mine @ g[j] < 0:
                mine -= mine @ g[j] / (g[j] @ g[j]) * g[j]
        total += mine
    return total


def drawn(tasks, seed):
    return others_in_random_order(tasks, tf.constant(seed, tf.int32)).numpy().argmax(-1).T.tolist()


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_follows_the_papers_algorithm(tasks, gradients, weigh):
    for kind in ("random", "agreeing", "conflicting", "of many lengths", "one zero", "opposite, of other lengths"):
        g = gradients(tasks)[kind]
        for step in range(5):
            w = weigh(PCGrad(name="pcgrad"), np.ones(tasks), g @ g.T, step=step)[0].shared.numpy()
            expected = surgery(g, drawn(tasks, [0, step]))
            np.testing.assert_allclose(w @ g, expected, atol=2e-5 * np.abs(w) @ np.abs(g).max(axis=1))


def test_each_order_of_three_tasks_is_drawn_for_each_task_alone(weigh):
    g = np.random.default_rng(4).normal(size=(3, 4))
    g -= 0.9 * g.mean(axis=0)
    assert (g @ g.T < 0).sum() == 6
    others = [[(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]]
    possible = np.array([surgery(g, orders) for orders in itertools.product(*others)])
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(possible, 2)) > 1e-3
    met = set()
    for step in range(100):
        w = weigh(PCGrad(name="pcgrad"), np.ones(3), g @ g.T, step=step)[0].shared.numpy()
        distance = np.abs(possible - w @ g).max(axis=1)
        assert distance.min() < 1e-5
        met.add(int(distance.argmin()))
    assert met == set(range(8))


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_orders_are_permutations_of_the_others_new_at_each_step(tasks):
    seen = set()
    for step in range(30):
        orders = drawn(tasks, [0, step])
        for i, order in enumerate(orders):
            assert sorted([*order, i]) == list(range(tasks))
        seen.add(str(orders))
    assert len(seen) == 1 if tasks == 2 else len(seen) > 5


def test_orders_are_uniform():
    firsts = np.array([[order[0] for order in drawn(4, [1, step])] for step in range(600)])
    for i in range(4):
        counts = np.bincount(firsts[:, i], minlength=4)
        assert counts[i] == 0
        # 600 draws of probability 1/3: five standard deviations are 58.
        assert (np.abs(np.delete(counts, i) - 200) < 58).all()


def test_two_tasks_follow_the_closed_form(weigh):
    for a, b in np.random.default_rng(0).normal(size=(50, 2, 3)):
        conflict = min(a @ b, 0.0)
        expected = [1 - conflict / (a @ a), 1 - conflict / (b @ b)]
        matrix = np.array([[a @ a, a @ b], [a @ b, b @ b]])
        np.testing.assert_allclose(weigh(PCGrad(name="pcgrad"), [1, 1], matrix)[0].shared, expected, rtol=1e-5)


def test_opposite_gradients_cancel(weigh):
    g = np.array([[2.0, 0.0], [-1.0, 0.0]])
    w = weigh(PCGrad(name="pcgrad"), [1, 1], g @ g.T)[0].shared.numpy()
    np.testing.assert_allclose(w @ g, [0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_zero_gradients_do_nothing(tasks, gradients, weigh):
    g = gradients(tasks)["one zero"]
    w = weigh(PCGrad(name="pcgrad"), np.ones(tasks), g @ g.T)[0].shared.numpy()
    assert np.isfinite(w).all() and w[0] == 1
    assert np.array_equal(weigh(PCGrad(name="pcgrad"), np.ones(tasks), 0 * g @ g.T)[0].shared, np.ones(tasks))
