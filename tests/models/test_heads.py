"""Heads: losses against a float64 reference written from the papers, stability, and sample spaces."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.heads import AnyHeads, EntireSpaceConfig, JointConfig, PlainConfig
from models.numerics import log1mexp
from models.tasks import DEFAULT_TASKS, TaskConfig

THREE = (
    TaskConfig(name="ctr", label="click"),
    TaskConfig(name="cart", label="cart", joint="ctcart"),
    TaskConfig(name="cvr", label="purchase", joint="ctcvr"),
)


CONFIGS = (EntireSpaceConfig(name="entire_space"), PlainConfig(name="plain"), JointConfig(name="joint", calibrator=0.6))


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


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_losses_and_gradients_are_finite_at_any_logit(config):
    extremes = [-1e4, -200.0, -30.0, -1e-8, 0.0, 1e-8, 30.0, 200.0, 1e4]
    a, b = (tf.constant(x.ravel(), tf.float32) for x in np.meshgrid(extremes, extremes))
    heads = config.build(DEFAULT_TASKS, seed=0)
    for labels in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            losses = heads.task_losses([a, b], [tf.fill(a.shape, y) for y in labels])
            penalty = heads.penalty([a, b])
            total = tf.add_n([*losses, 0.0 if penalty is None else penalty])
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


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_a_weight_is_a_number_of_rows(config):
    heads = config.build(DEFAULT_TASKS, seed=0)
    a, b = tf.constant([0.3, -0.2, 0.7]), tf.constant([0.1, 1.0, 0.4])
    y = [tf.constant([1.0, 0.0, 1.0]), tf.constant([1.0, 0.0, 0.0])]
    times = np.array([1, 3, 2])
    repeated = np.repeat(np.arange(3), times)
    # Divided by the mean of those that reached the step: all rows, and the first and third.
    weights = np.stack([times / times.mean(), times / times[[0, 2]].mean()], axis=1).astype(np.float32)
    some = heads.task_losses([a, b], y, tf.constant(weights))
    all_rows = heads.task_losses([tf.gather(x, repeated) for x in (a, b)], [tf.gather(x, repeated) for x in y])
    np.testing.assert_allclose(some, all_rows, rtol=1e-6)
    penalty = heads.penalty([a, b], tf.constant(weights))
    of_all = heads.penalty([tf.gather(x, repeated) for x in (a, b)])
    assert (penalty is None) == (of_all is None) == (config.name != "joint")
    if penalty is not None:
        np.testing.assert_allclose(penalty, of_all, rtol=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_weighted_losses_of_batches_add_up_to_those_of_all_rows(config):
    """What keeps probabilities calibrated: a weight counts the same, whatever rows are in its batch."""
    heads = config.build(DEFAULT_TASKS, seed=0)
    rng = np.random.default_rng(0)
    click = np.repeat([0, 1], 6)
    y = np.stack([click, click * rng.integers(0, 2, 12)], axis=1).astype(np.float32)
    logits, weights = rng.normal(size=(12, 2)).astype(np.float32), rng.exponential(size=(12, 2)).astype(np.float32)
    # Each with as many rows that reached the second step as the other.
    halves = np.arange(0, 12, 2), np.arange(1, 12, 2)

    def losses(rows):
        columns = [[tf.constant(x[rows, k]) for k in (0, 1)] for x in (logits, y)]
        return np.array(heads.task_losses(*columns, tf.constant(weights[rows])))

    np.testing.assert_allclose((losses(halves[0]) + losses(halves[1])) / 2, losses(np.arange(12)), rtol=1e-5)


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
    for config in CONFIGS:
        heads = config.build(DEFAULT_TASKS, seed=0)
        x = tf.random.normal([8, 4], seed=1)
        heads([x, x])
        with tf.GradientTape(persistent=True) as tape:
            losses = heads.task_losses(heads([x, x]), [tf.ones([8]), tf.ones([8])])
        reached[config.name] = [
            [tape.gradient(loss, tower.trainable_variables[0]) is not None for tower in heads.towers] for loss in losses
        ]
    assert reached == {
        "entire_space": [[True, False], [True, True]],
        "plain": [[True, False], [False, True]],
        "joint": [[True, False], [False, True]],
    }


def as_tensors(arrays):
    return [tf.constant(a, tf.float32) for a in arrays]


@pytest.mark.parametrize("tasks", [DEFAULT_TASKS, THREE], ids=["two steps", "three steps"])
def test_joint_losses_are_cross_entropies_of_each_probability_over_all_rows(tasks):
    rng = np.random.default_rng(2)
    logits = [rng.normal(size=64) for _ in tasks]
    labels = chain_labels(rng, 64, len(tasks))
    heads = JointConfig(name="joint").build(tasks, seed=0)

    losses = heads.task_losses(as_tensors(logits), as_tensors(labels))

    expected = [bce(y, sigmoid(a)).mean() for y, a in zip(labels, logits)]
    np.testing.assert_allclose([float(x) for x in losses], expected, rtol=1e-5)
    assert heads.loss_names == ("ctr", *(t.joint for t in tasks[1:]))


def test_joint_conditionals_are_quotients_of_at_most_1():
    logits = [[-3.0, 0.0, 2.0, -60.0], [-4.0, -50.0, 3.0, -61.0], [-4.5, -3.0, 2.5, -61.0]]
    p = JointConfig(name="joint").build(THREE, seed=0).probabilities(as_tensors(logits))
    joint = [sigmoid(np.array(a)) for a in logits]
    assert list(p) == ["pctr", "pcart", "pcvr", "pctcart", "pctcvr"]
    for name, expected in zip(("pctr", "pctcart", "pctcvr"), joint):
        np.testing.assert_allclose(p[name], expected, rtol=1e-5)
    np.testing.assert_allclose(p["pcart"], np.minimum(1, joint[1] / joint[0]), rtol=1e-5)
    np.testing.assert_allclose(p["pcvr"], np.minimum(1, joint[2] / joint[1]), rtol=1e-5)
    assert 1.0 in p["pcart"].numpy() and all(v.dtype == tf.float32 and v.shape == [4] for v in p.values())


def test_a_quotient_of_probabilities_that_underflow_is_still_right():
    p = JointConfig(name="joint").build(DEFAULT_TASKS, seed=0).probabilities(as_tensors([[-200.0], [-201.0]]))
    assert float(p["pctr"][0]) == float(p["pctcvr"][0]) == 0.0
    np.testing.assert_allclose(p["pcvr"], [np.exp(-1)], rtol=1e-5)


@pytest.mark.parametrize("tasks", [DEFAULT_TASKS, THREE], ids=["two steps", "three steps"])
def test_the_calibrator_is_the_mean_growth_down_the_funnel(tasks):
    rng = np.random.default_rng(3)
    logits = [rng.normal(size=32) for _ in tasks]
    heads = JointConfig(name="joint", calibrator=0.6).build(tasks, seed=0)
    p = [sigmoid(a) for a in logits]
    expected = 0.6 * sum(np.maximum(p[k] - p[k - 1], 0).mean() for k in range(1, len(p)))
    np.testing.assert_allclose(heads.penalty(as_tensors(logits)), expected, rtol=1e-5)


def test_the_calibrator_is_0_where_probabilities_fall_and_none_where_it_is_off():
    falling = as_tensors([[2.0, 0.0], [1.0, 0.0]])
    assert float(JointConfig(name="joint", calibrator=0.6).build(DEFAULT_TASKS, seed=0).penalty(falling)) == 0.0
    for config in (JointConfig(name="joint"), PlainConfig(name="plain"), EntireSpaceConfig(name="entire_space")):
        assert config.build(DEFAULT_TASKS, seed=0).penalty(falling) is None


def test_the_calibrator_of_replicas_adds_up_to_that_of_the_whole_batch(monkeypatch):
    heads = JointConfig(name="joint", calibrator=1.0).build(DEFAULT_TASKS, seed=0)
    logits = as_tensors([[0.0, 1.0, -1.0], [1.0, 0.0, 2.0]])
    alone = float(heads.penalty(logits))
    # Two replicas with one row and two rows: each is told the sum of the rows.
    monkeypatch.setattr("models.heads.joint.sum_over_replicas", lambda counts: [tf.constant(3.0)])
    parts = [float(heads.penalty([a[rows] for a in logits])) for rows in (slice(0, 1), slice(1, 3))]
    assert min(parts) > 0
    np.testing.assert_allclose(sum(parts), alone, rtol=1e-6)


def widths(heads):
    return [[v.shape[1] for v in tower.trainable_variables if "kernel" in v.name] for tower in heads.towers]


def test_a_tower_of_its_own_for_a_task():
    text = '{"name": "plain", "tower": [6], "towers": {"cvr": [5, 4], "ctr": []}}'
    heads = TypeAdapter(AnyHeads).validate_json(text).build(THREE, seed=0)
    heads([tf.ones([2, 3])] * 3)
    assert widths(heads) == [[1], [6, 1], [5, 4, 1]]


def test_the_tower_of_a_task_that_is_not_there_is_refused():
    config = PlainConfig(name="plain", towers={"ctr": (3,), "cvrr": (5,)})
    config.check_tasks(("ctr", "cvrr"))
    with pytest.raises(ValueError, match="towers: expected names of tasks, among ctr, cvr, got 'cvrr'"):
        config.check_tasks(("ctr", "cvr"))
    with pytest.raises(ValueError, match="cvrr"):
        config.build(DEFAULT_TASKS, seed=0)


def test_towers_are_normalised_before_each_activation():
    heads = PlainConfig(name="plain", tower=(6, 4), normalization="layer").build(DEFAULT_TASKS, seed=0)
    x = tf.random.normal([8, 3], seed=1)
    logits = heads([x, x])
    for tower, logit in zip(heads.towers, logits):
        h = x.numpy().astype(np.float64)
        weights = [v.numpy().astype(np.float64) for v in tower.trainable_variables]
        assert len(weights) == 2 * 4 + 2
        for kernel, bias, scale, offset in (weights[:4], weights[4:8]):
            h = h @ kernel + bias
            h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 1e-3)
            h = np.maximum(scale * h + offset, 0)
        np.testing.assert_allclose(logit, (h @ weights[8] + weights[9])[:, 0], rtol=1e-3, atol=1e-4)
