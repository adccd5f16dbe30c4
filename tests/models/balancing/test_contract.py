"""One contract for all balancers: a new one is a row here."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.balancing import AnyBalancer, GramBalancer, Needs, Run

ROWS: dict[str, dict] = {
    "static": {"name": "static"},
    "static, given": {"name": "static", "weights": {"a": 2.0}},
    "uncertainty": {"name": "uncertainty"},
    "uncertainty, log1p": {"name": "uncertainty", "variant": "log1p"},
    "dwa": {"name": "dwa"},
    "dwa, cold": {"name": "dwa", "temperature": 1e-6, "period_steps": 1},
    "dwa, hot": {"name": "dwa", "temperature": 1e6, "period_steps": 2},
    "htw": {"name": "htw"},
    "htw, first": {"name": "htw", "main_task": "a", "warm_up": 0.0, "alpha": 1.0},
    "htw, epoch": {"name": "htw", "reference": "epoch", "warm_up": 1.0},
    "gradnorm": {"name": "gradnorm"},
    "gradnorm, sgd": {"name": "gradnorm", "optimizer": "sgd", "learning_rate": 1.0},
    "gradnorm, steep": {"name": "gradnorm", "alpha": 10.0, "baseline_steps": 3},
    "famo": {"name": "famo"},
    "famo, lowest": {"name": "famo", "lowest": {"b": 0.1}, "learning_rate": 10.0, "gamma": 1.0},
    "random_weighting": {"name": "random_weighting"},
    "mgda": {"name": "mgda"},
    "mgda, l2": {"name": "mgda", "normalization": "l2"},
    "mgda, loss": {"name": "mgda", "normalization": "loss"},
    "mgda, loss_plus": {"name": "mgda", "normalization": "loss_plus"},
    "pe_ltr": {"name": "pe_ltr"},
    "pe_ltr, floors": {"name": "pe_ltr", "floors": {"a": 0.2, "b": 0.5}},
    "pe_ltr, exact": {"name": "pe_ltr", "solver": "exact", "floors": {"a": 0.2}},
    "pcgrad": {"name": "pcgrad"},
    "gradvac": {"name": "gradvac"},
    "gradvac, model": {"name": "gradvac", "per": "model", "beta": 1.0},
    "cagrad": {"name": "cagrad"},
    "cagrad, plain": {"name": "cagrad", "c": 0.0},
    "nash_mtl": {"name": "nash_mtl"},
    "imtl_g": {"name": "imtl_g"},
    "aligned_mtl": {"name": "aligned_mtl"},
}
BALANCERS = TypeAdapter(AnyBalancer)
ALL = {row: BALANCERS.validate_json(json.dumps(given)) for row, given in ROWS.items()}
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
GROUPS = 3
# Rows without a favourite task and without chance, in which no task differs from another but by what it brings.
SYMMETRIC = [
    "static",
    "uncertainty",
    "uncertainty, log1p",
    "dwa",
    "dwa, hot",
    "gradnorm",
    "gradnorm, sgd",
    "gradnorm, steep",
    "famo",
]


def rows(condition=lambda balancer: True):
    chosen = {row: balancer for row, balancer in ALL.items() if condition(balancer)}
    assert chosen
    return pytest.mark.parametrize("balancer", chosen.values(), ids=chosen.keys())


def weighs_losses(balancer):
    return not isinstance(balancer, GramBalancer)


def per_layer(balancer):
    return isinstance(balancer, GramBalancer) and balancer.per_layer


def gram(balancer, kind, tasks, scale=1.0):
    """Inner products of random gradients: in general position, all on one line, or zero."""
    generator = np.random.default_rng(tasks)
    width = {"full": 2 * tasks, "rank 1": 1, "zero": 1}[kind]
    gradients = generator.normal(size=((GROUPS,) if per_layer(balancer) else ()) + (tasks, width))
    if kind == "zero":
        gradients = np.zeros_like(gradients)
    return tf.constant(gradients @ np.swapaxes(gradients, -1, -2) * scale, tf.float32)


def inputs(balancer, tasks):
    """Losses and Gram matrices at the ends of what float32 meets."""
    losses = np.random.default_rng(tasks).uniform(0.1, 2.0, tasks)
    cases = [(scale, "full", 1.0) for scale in (0.0, 1e-10, 1e10, 1e15)]
    cases += [(1.0, kind, scale) for kind in ("full", "rank 1") for scale in (1e-20, 1e-10, 1.0, 1e10, 1e30)]
    cases += [(scale, "zero", 0.0) for scale in (0.0, 1.0)] + [(1e15, "rank 1", 1e30)]
    for loss_scale, kind, scale in cases:
        yield tf.constant(losses * loss_scale, tf.float32), gram(balancer, kind, tasks, scale)


def in_graph(balancer):
    return tf.function(
        lambda losses, gram, state, step: balancer.weigh(
            losses, gram, state, step=step, seed=tf.stack([tf.constant(7), tf.cast(step, tf.int32)])
        )
    )


def layout(state):
    return {name: (tuple(value.shape), value.dtype) for name, value in state.items()}


def test_every_balancer_has_a_row():
    union = get_args(get_args(AnyBalancer)[0])
    assert set(union) == {type(balancer) for balancer in ALL.values()}


@rows()
@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_contract(balancer, tasks):
    graph = in_graph(balancer)
    initial = balancer.initial_state(Run(NAMES[:tasks], steps=40, steps_per_epoch=20, groups=GROUPS))
    assert all(value.dtype == tf.float32 for value in initial.values())
    for losses, matrix in inputs(balancer, tasks):
        state = initial
        for step in range(4):
            # Losses that stand still, fall to 0 and come back.
            now = losses * [1.0, 1.0, 0.0, 1.0][step]
            (shared, own), new = graph(now, matrix, state, tf.constant(step, tf.int64))
            assert shared.shape == ([GROUPS, tasks] if per_layer(balancer) else [tasks]) and own.shape == [tasks]
            assert shared.dtype == own.dtype == tf.float32
            assert np.isfinite(shared).all() and np.isfinite(own).all()
            assert layout(new) == layout(initial)
            assert all(np.isfinite(value).all() for value in new.values())
            state = new


@rows()
def test_the_same_seed_gives_the_same_weights(balancer):
    results = []
    for _ in range(2):
        graph, state = in_graph(balancer), balancer.initial_state(Run(NAMES[:3], groups=GROUPS))
        for step in range(3):
            weights, state = graph(
                tf.constant([0.3, 0.1, 0.7]), gram(balancer, "full", 3), state, tf.constant(step, tf.int64)
            )
        results.append([*weights, *state.values()])
    assert all(np.array_equal(a, b) for a, b in zip(*results))


@rows()
def test_configuration_survives_json(balancer):
    assert BALANCERS.validate_json(balancer.canonical_json()) == balancer


@rows(weighs_losses)
@pytest.mark.parametrize("tasks", [2, 3, 6, 8])
def test_weighting_losses_scales_a_task_as_a_whole(balancer, tasks):
    graph = in_graph(balancer)
    for losses, matrix in inputs(balancer, tasks):
        state = balancer.initial_state(Run(NAMES[:tasks], steps=40, steps_per_epoch=20))
        for step in range(3):
            weights, state = graph(losses, matrix, state, tf.constant(step, tf.int64))
            assert np.array_equal(weights.shared, weights.own)
            assert (weights.own.numpy() >= 0).all()
            assert np.isfinite(weights.own * losses).all()


@rows(lambda balancer: not weighs_losses(balancer))
def test_weighting_gradients_leaves_a_tasks_own_parameters_alone(balancer):
    assert balancer.needs is Needs.GRAM
    graph, state = in_graph(balancer), balancer.initial_state(Run(NAMES[:3], groups=GROUPS))
    for step in range(3):
        weights, state = graph(
            tf.constant([0.3, 0.1, 0.7]), gram(balancer, "full", 3), state, tf.constant(step, tf.int64)
        )
        assert np.array_equal(weights.own, np.ones(3))


@pytest.mark.parametrize("row", SYMMETRIC)
@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_equal_tasks_get_equal_weights(row, tasks, drive):
    falling = np.outer(0.7 * 0.9 ** np.arange(8), np.ones(tasks))
    weights = drive(ALL[row], falling, run=Run(NAMES[:tasks], 8, 8))
    np.testing.assert_allclose(weights, weights[:, :1] * np.ones(tasks), rtol=1e-6)


@pytest.mark.parametrize("row", SYMMETRIC)
def test_tasks_can_change_places(row, drive):
    generator, order = np.random.default_rng(5), np.array([2, 0, 3, 1])
    losses = generator.uniform(0.1, 1.0, [12, 4])
    gradients = generator.normal(size=(4, 9)) * [[1.0], [3.0], [0.2], [2.0]]
    matrix, run = gradients @ gradients.T, Run(NAMES[:4], 12, 12)
    straight = drive(ALL[row], losses, matrix, run)
    changed = drive(ALL[row], losses[:, order], matrix[np.ix_(order, order)], run)
    np.testing.assert_allclose(straight[:, order], changed, rtol=1e-4)
    if row not in ("static", "dwa, hot"):  # which hardly tell tasks apart
        assert np.ptp(straight[-1]) > 1e-4
