"""Sluice networks against the paper's equations: subspaces, mixture of layers, and the orthogonality penalty."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.trunks import AnyTrunk, DenseStack, SluiceConfig

TASKS, WIDTH, UNITS = 3, 7, 6
LAYERS = 3


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(tasks=TASKS, layers=LAYERS, seed=0, random=True, **options):
    bottom = DenseStack(units=(UNITS,) * layers)
    trunk = SluiceConfig(name="sluice", bottom=bottom, **options).build(tasks, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(seed)
    for v in trunk.trainable_variables if random else []:
        v.assign(rng.normal(size=v.shape, scale=0.7))
    return trunk


def alpha(trunk, i):
    return np.concatenate([rows.numpy() for rows in trunk.stitches[i].rows]).astype(np.float64)


def reference(trunk, x):
    """Every task's two halves of a layer are mixed with all others' halves; then layers by β."""
    streams, seen = [x.astype(np.float64)] * trunk.tasks, []
    for i, layers in enumerate(trunk.task_layers):
        halves = []
        for stream, layer in zip(streams, layers):
            kernel, bias = (v.numpy().astype(np.float64) for v in layer.trainable_variables)
            h = np.maximum(stream @ kernel + bias, 0)
            halves += [h[:, : UNITS // 2], h[:, UNITS // 2 :]]
        a = alpha(trunk, i)
        mixed = [sum(a[p, q] * halves[q] for q in range(2 * trunk.tasks)) for p in range(2 * trunk.tasks)]
        streams = [np.concatenate(mixed[2 * k : 2 * k + 2], axis=1) for k in range(trunk.tasks)]
        seen.append(streams)
    betas = [mixture.beta.numpy().astype(np.float64) for mixture in trunk.mixtures]
    return [sum(betas[k][i] * seen[i][k] for i in range(len(seen))) for k in range(trunk.tasks)]


@pytest.mark.parametrize("tasks, layers", [(2, 2), (3, 3), (2, 1)])
def test_forward_pass_against_the_paper(tasks, layers):
    trunk, x = make(tasks, layers), sample()
    for r, expected in zip(trunk(x), reference(trunk, x), strict=True):
        np.testing.assert_allclose(r, expected, rtol=1e-3, atol=1e-3)


def test_penalty_is_the_overlap_of_the_two_subspaces_of_every_kernel():
    trunk = make(strength=0.2)
    expected, weights = 0.0, 0
    for layers in trunk.task_layers:
        for layer in layers:
            kernel = layer.trainable_variables[0].numpy().astype(np.float64)
            overlap = kernel[:, : UNITS // 2].T @ kernel[:, UNITS // 2 :]
            expected += 0.2 * np.linalg.norm(overlap, "fro") ** 2
            weights += 1
    assert weights == TASKS * LAYERS
    np.testing.assert_allclose(trunk.penalty(), expected, rtol=1e-5)
    assert make(strength=0.0).penalty() is None


def test_penalty_is_0_for_orthogonal_subspaces_only():
    trunk = make(2, 1, strength=1.0)
    kernel = np.zeros([WIDTH, UNITS], np.float32)
    kernel[[0, 1, 2, 3, 4, 5], range(6)] = 1.0
    for layer in trunk.task_layers[0]:
        layer.trainable_variables[0].assign(kernel)
    assert float(trunk.penalty()) == 0.0
    kernel[0, 3] = 2.0
    trunk.task_layers[0][0].trainable_variables[0].assign(kernel)
    assert float(trunk.penalty()) == 4.0  # (1 · 2)²


def test_mixing_starts_near_the_identity_and_the_last_layer():
    trunk = make(random=False)
    for i in range(LAYERS):
        a = alpha(trunk, i)
        np.testing.assert_allclose(np.diag(a), 0.9, rtol=1e-6)
        np.testing.assert_allclose(a[~np.eye(2 * TASKS, dtype=bool)], 0.1 / (2 * TASKS - 1), rtol=1e-5)
    for mixture in trunk.mixtures:
        np.testing.assert_allclose(mixture.beta, [0.05, 0.05, 0.9], rtol=1e-5)
    np.testing.assert_allclose(make(layers=1, random=False).mixtures[0].beta, [1.0])


def test_number_of_weights():
    dense = WIDTH * UNITS + UNITS + (LAYERS - 1) * (UNITS**2 + UNITS)
    assert make().count_params() == TASKS * dense + LAYERS * (2 * TASKS) ** 2 + TASKS * LAYERS


def test_every_loss_reaches_all_but_the_other_tasks_last_rows_and_mixtures():
    trunk, x = make(), tf.constant(sample())
    with tf.GradientTape(persistent=True) as tape:
        representations = trunk(x)
    # A lower unit's rows reach every task through the layers above.
    own = {id(rows): k for k, rows in enumerate(trunk.stitches[-1].rows)}
    own |= {id(mixture.beta): k for k, mixture in enumerate(trunk.mixtures)}
    for k, r in enumerate(representations):
        for v, gradient in zip(trunk.trainable_variables, tape.gradient(r, trunk.trainable_variables)):
            assert (gradient is not None) == (own.get(id(v), k) == k), v.name
    assert [id(v) for v in trunk.last_shared_layer] == [
        id(layer.trainable_variables[0]) for layer in trunk.task_layers[-1]
    ]


@pytest.mark.parametrize("units", ["[8, 4]", "[5, 5]"])
def test_widths_that_cannot_be_mixed_are_refused(units):
    with pytest.raises(ValueError, match=r"expected layers of one even width, got \[" + units[1]):
        TypeAdapter(AnyTrunk).validate_json('{"name": "sluice", "bottom": {"units": %s}}' % units)  # noqa: UP031


def test_what_every_task_reads_is_the_input():
    x = tf.constant(sample())
    assert make().shared(x, False) is x
