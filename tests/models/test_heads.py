"""Heads: losses against a float64 reference written from the papers, stability, and sample spaces."""

import numpy as np
import pytest
import tensorflow as tf

from models.heads import EntireSpaceConfig, PlainConfig
from models.numerics import log1mexp
from models.tasks import DEFAULT_TASKS, TaskConfig

THREE = (
    TaskConfig(name="ctr", label="click"),
    TaskConfig(name="cart", label="cart", joint="ctcart"),
    TaskConfig(name="cvr", label="purchase", joint="ctcvr"),
)


def chain_labels(rng, rows, tasks):
    """Labels in which a step happens only where the step before did."""
    labels = [rng.random(rows) < 0.5]
    for _ in range(tasks - 1):
        labels.append(labels[-1] & (rng.random(rows) < 0.5))
    return [y.astype(np.float64) for y in labels]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def bce(y, p):
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


@pytest.mark.parametrize("tasks", [DEFAULT_TASKS, THREE], ids=["two steps", "three steps"])
def test_entire_space_losses_are_cross_entropies_of_the_products_over_all_rows(tasks):
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=64) for _ in tasks]
    labels = chain_labels(rng, 64, len(tasks))
    heads = EntireSpaceConfig(name="entire_space").build(tasks, seed=0)

    losses = heads.task_losses(
        [tf.constant(a, tf.float32) for a in logits], [tf.constant(y, tf.float32) for y in labels]
    )

    product = np.cumprod([sigmoid(a) for a in logits], axis=0)
    expected = [bce(y, p).mean() for y, p in zip(labels, product)]
    np.testing.assert_allclose([float(x) for x in losses], expected, rtol=1e-5)


def test_plain_losses_are_over_the_rows_that_reached_the_step():
    rng = np.random.default_rng(1)
    logits = [rng.normal(size=64) for _ in range(2)]
    click, purchase = chain_labels(rng, 64, 2)
    heads = PlainConfig(name="plain").build(DEFAULT_TASKS, seed=0)

    losses = heads.task_losses(
        [tf.constant(a, tf.float32) for a in logits], [tf.constant(y, tf.float32) for y in (click, purchase)]
    )

    clicked = click == 1
    expected = [bce(click, sigmoid(logits[0])).mean(), bce(purchase, sigmoid(logits[1]))[clicked].mean()]
    np.testing.assert_allclose([float(x) for x in losses], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "config", [EntireSpaceConfig(name="entire_space"), PlainConfig(name="plain")], ids=lambda c: c.name
)
def test_probabilities_multiply_down_the_funnel(config):
    logits = [tf.constant([-3.0, 0.0, 2.0]), tf.constant([1.0, -40.0, 40.0])]
    p = config.build(DEFAULT_TASKS, seed=0).probabilities(logits)
    assert list(p) == ["pctr", "pcvr", "pctcvr"]
    np.testing.assert_allclose(p["pctcvr"], p["pctr"] * p["pcvr"], rtol=1e-5)
    assert all(v.dtype == tf.float32 and v.shape == [3] for v in p.values())


@pytest.mark.parametrize(
    "config", [EntireSpaceConfig(name="entire_space"), PlainConfig(name="plain")], ids=lambda c: c.name
)
def test_losses_and_gradients_are_finite_at_any_logit(config):
    extremes = [-1e4, -200.0, -30.0, -1e-8, 0.0, 1e-8, 30.0, 200.0, 1e4]
    a, b = (tf.constant(x.ravel(), tf.float32) for x in np.meshgrid(extremes, extremes))
    heads = config.build(DEFAULT_TASKS, seed=0)
    for labels in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            losses = heads.task_losses([a, b], [tf.fill(a.shape, y) for y in labels])
            total = tf.add_n(losses)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(total, [a, b], unconnected_gradients="zero")]
        assert all(np.isfinite(x).all() for x in (*losses, *gradients))


def test_a_task_without_rows_in_its_sample_space_has_zero_loss_and_gradient():
    heads = PlainConfig(name="plain").build(DEFAULT_TASKS, seed=0)
    a, b = tf.constant([0.3, -0.2]), tf.constant([float("inf"), 1.0])
    zeros = tf.zeros([2])
    with tf.GradientTape() as tape:
        tape.watch(b)
        loss = heads.task_losses([a, b], [zeros, zeros])[1]
    assert float(loss) == 0.0
    assert np.array_equal(tf.convert_to_tensor(tape.gradient(loss, b)), [0.0, 0.0])


def test_rows_with_a_missing_label_do_not_count():
    heads = EntireSpaceConfig(name="entire_space").build(DEFAULT_TASKS, seed=0)
    a, b = tf.constant([0.3, -0.2, 1.0]), tf.constant([0.1, 1.0, -1.0])
    click = tf.constant([1.0, 0.0, 1.0])
    purchase = tf.constant([1.0, 0.0, float("nan")])
    some = heads.task_losses([a, b], [click, purchase])
    without = heads.task_losses([a[:2], b[:2]], [click[:2], purchase[:2]])
    whole = heads.task_losses([a, b], [click, tf.zeros([3])])
    np.testing.assert_allclose(some[1], without[1], rtol=1e-6)
    np.testing.assert_allclose(some[0], whole[0], rtol=1e-6)


def test_row_weights_are_the_weights_of_a_mean():
    heads = EntireSpaceConfig(name="entire_space").build(DEFAULT_TASKS, seed=0)
    a, b = tf.constant([0.3, -0.2]), tf.constant([0.1, 1.0])
    y = [tf.constant([1.0, 0.0]), tf.constant([1.0, 0.0])]
    weighted = heads.task_losses([a, b], y, tf.constant([2.0, 1.0]))
    repeated = heads.task_losses([tf.gather(x, [0, 0, 1]) for x in (a, b)], [tf.gather(x, [0, 0, 1]) for x in y])
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6)


def test_log1mexp_equals_float64_and_has_finite_gradients():
    x = -np.logspace(-30, 4, 400)
    t = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = log1mexp(t)
    # Of the float32 argument, in float64, by the formula that is exact there.
    x32 = t.numpy().astype(np.float64)
    expected = np.where(x32 > -1, np.log(-np.expm1(np.maximum(x32, -1))), np.log1p(-np.exp(np.minimum(x32, -1))))
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-35)
    gradient = tape.gradient(y, t).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[x32 > -80], (-1 / np.expm1(-x32[x32 > -80])), rtol=1e-5)


def test_each_loss_reaches_the_towers_that_the_equation_says():
    reached = {}
    for config in (EntireSpaceConfig(name="entire_space"), PlainConfig(name="plain")):
        heads = config.build(DEFAULT_TASKS, seed=0)
        x = tf.random.normal([8, 4], seed=1)
        heads([x, x])
        with tf.GradientTape(persistent=True) as tape:
            losses = heads.task_losses(heads([x, x]), [tf.ones([8]), tf.ones([8])])
        reached[config.name] = [
            [tape.gradient(loss, tower.trainable_variables[0]) is not None for tower in heads.towers] for loss in losses
        ]
    assert reached == {"entire_space": [[True, False], [True, True]], "plain": [[True, False], [False, True]]}
