"""Driving a balancer by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import Run

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


@pytest.fixture(scope="session")
def weigh():
    """One step: weights and new state; from the initial state of `run` where none is given."""

    def weigh(balancer, losses, gram=None, state=None, step=0, run=None):
        k = len(losses)
        state = balancer.initial_state(run or Run(NAMES[:k])) if state is None else state
        return balancer.weigh(
            tf.constant(losses, tf.float32),
            tf.constant(np.eye(k) if gram is None else gram, tf.float32),
            state,
            step=tf.constant(step, tf.int64),
            seed=tf.constant([0, step], tf.int32),
        )

    return weigh


@pytest.fixture(scope="session")
def drive(weigh):
    """Own weights [steps, K] over a sequence of losses [steps, K], with a Gram matrix for each step or for all."""

    def drive(balancer, losses, grams=None, run=None):
        state, weights = None, []
        for step, row in enumerate(losses):
            gram = None if grams is None else np.broadcast_to(grams, (len(losses), len(row), len(row)))[step]
            found, state = weigh(balancer, row, gram, state, step, run)
            weights.append(found.own.numpy())
        return np.array(weights)

    return drive


@pytest.fixture(scope="session")
def gradients():
    """Named matrices of task gradients [K, d], float64: in general position, and in each degenerate one."""

    def gradients(tasks):
        generator = np.random.default_rng(tasks)
        normal = generator.normal(size=(tasks, 2 * tasks))
        line = generator.normal(size=(1, 5))
        sizes = generator.uniform(0.5, 2.0, (tasks, 1))
        signs = np.where(np.arange(tasks) % 2, -1.0, 1.0)[:, None]
        return {
            "random": normal,
            "agreeing": np.abs(normal),
            "conflicting": normal - 0.95 * normal.mean(axis=0) * (tasks > 2) - 0.6 * normal[::-1],
            "of many lengths": normal * 10.0 ** np.linspace(-3, 3, tasks)[:, None],
            "of extreme lengths": normal * 10.0 ** np.linspace(-10, 15, tasks)[:, None],
            "rank deficient": generator.normal(size=(tasks, max(1, tasks // 2))),
            "equal": np.repeat(line, tasks, axis=0),
            "parallel": sizes * line,
            "opposite": signs * line,
            "opposite, of other lengths": sizes * signs * line,
            "one zero": normal * (np.arange(tasks) > 0)[:, None],
            "zero": 0.0 * normal,
        }

    return gradients


@pytest.fixture(scope="session")
def rounded():
    """The Gram matrix as balancers see it, rounded to float32, in float64: what a reference must start from."""
    return lambda gradients: (gradients @ gradients.T).astype(np.float32).astype(np.float64)
