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
