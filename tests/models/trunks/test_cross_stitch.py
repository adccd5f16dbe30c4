"""Cross-stitch networks against the paper's equation, and which loss reaches which weight."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.trunks import AnyTrunk, CrossStitchConfig, DenseStack

TASKS, WIDTH, UNITS = 3, 7, (6, 5)


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(tasks=TASKS, seed=0, random=True, stack=None, **options):
    bottom = DenseStack(units=UNITS, **(stack or {}))
    trunk = CrossStitchConfig(name="cross_stitch", bottom=bottom, **options).build(tasks, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(seed)
    for v in trunk.trainable_variables if random else []:
        v.assign(rng.normal(size=v.shape))
    return trunk


def matrix(trunk, i):
    return np.concatenate([row.numpy() for row in trunk.stitches[i].rows]).astype(np.float64)


def reference(trunk, x):
    """x̃_k = Σ_j A_kj x_j, with x_j = relu(x̃_j W_j + b_j) of the layer below, in loops."""
    streams = [x.astype(np.float64)] * trunk.tasks
    for i in range(len(UNITS)):
        outputs = []
        for k, stream in enumerate(streams):
            kernel, bias = (v.numpy().astype(np.float64) for v in trunk.task_layers[i][k].trainable_variables)
            outputs.append(np.maximum(stream @ kernel + bias, 0))
        a = matrix(trunk, i)
        streams = [sum(a[k, j] * outputs[j] for j in range(trunk.tasks)) for k in range(trunk.tasks)]
    return streams


@pytest.mark.parametrize("tasks", [2, 3])
def test_forward_pass_against_the_paper(tasks):
    trunk, x = make(tasks), sample()
    for r, expected in zip(trunk(x), reference(trunk, x), strict=True):
        np.testing.assert_allclose(r, expected, rtol=1e-3, atol=1e-3)


def test_mixing_starts_near_the_identity_and_layers_start_apart():
    trunk = make(random=False)
    for i in range(len(UNITS)):
        a = matrix(trunk, i)
        np.testing.assert_allclose(np.diag(a), 0.9, rtol=1e-6)
        np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(a[~np.eye(TASKS, dtype=bool)], 0.05, rtol=1e-5)
    kernels = [layers[0].trainable_variables[0].numpy() for layers in zip(*trunk.task_layers)]
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[1], kernels[2])


def test_with_keep_1_the_tasks_are_alone():
    trunk, x = make(random=False, keep=1.0), sample()
    for k, r in enumerate(trunk(x)):
        h = x
        for i in range(len(UNITS)):
            h = trunk.task_layers[i][k](h)
        np.testing.assert_allclose(r, h, rtol=1e-5, atol=1e-6)


def test_number_of_weights():
    assert make().count_params() == TASKS * (WIDTH * 6 + 6 + 6 * 5 + 5) + 2 * TASKS**2


def test_every_loss_reaches_all_but_the_other_tasks_last_rows():
    trunk, x = make(), tf.constant(sample())
    with tf.GradientTape(persistent=True) as tape:
        representations = trunk(x)
    last_rows = {id(row): k for k, row in enumerate(trunk.stitches[-1].rows)}
    for k, r in enumerate(representations):
        for v, gradient in zip(trunk.trainable_variables, tape.gradient(r, trunk.trainable_variables)):
            assert (gradient is not None) == (last_rows.get(id(v), k) == k), v.name


def test_the_last_shared_layer_is_the_last_layer_of_every_task():
    trunk = make()
    expected = [layer.trainable_variables[0] for layer in trunk.task_layers[-1]]
    assert [id(v) for v in trunk.last_shared_layer] == [id(v) for v in expected]
    assert [v.shape for v in trunk.last_shared_layer] == [[6, 5]] * TASKS


def test_only_the_mixing_weights_learn_faster():
    trunk = make(learning_rate_scale=30.0)
    rows = [id(row) for stitch in trunk.stitches for row in stitch.rows]
    assert [id(v) for v, _ in trunk.faster] == rows and len(rows) == 2 * TASKS
    assert {scale for _, scale in trunk.faster} == {30.0}
    own = {id(v) for v in trunk.trainable_variables}
    assert set(rows) <= own


def test_what_every_task_reads_is_the_input():
    trunk, x = make(), tf.constant(sample())
    assert trunk.shared(x, False) is x and trunk.penalty() is None


def test_the_layers_options_hold_for_every_layer():
    trunk = make(random=False, stack={"activation": "tanh", "normalization": "layer", "dropout": 0.5})
    kinds = [[type(part).__name__ for part in layer.layers] for layers in trunk.task_layers for layer in layers]
    assert kinds == [["Dense", "LayerNormalization", "Activation", "Dropout"]] * (2 * TASKS)
    x = sample()
    assert not np.allclose(trunk(x, training=True)[0], trunk(x)[0])


def test_configuration_is_read_by_its_name():
    read = TypeAdapter(AnyTrunk).validate_json
    config = read('{"name": "cross_stitch", "bottom": {"units": [3]}, "keep": 0.8}')
    assert config == CrossStitchConfig(name="cross_stitch", bottom=DenseStack(units=(3,)), keep=0.8)
    with pytest.raises(ValueError, match="keep"):
        read('{"name": "cross_stitch", "keep": 1.1}')
