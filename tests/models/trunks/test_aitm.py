"""AITM against the paper's equations, and the direction in which information goes."""

import numpy as np
import pytest
import tensorflow as tf

from models.trunks import AITMConfig, DenseStack

TASKS, WIDTH, UNITS = 3, 7, (6, 5)


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(tasks=TASKS, seed=0, random=True):
    trunk = AITMConfig(name="aitm", bottom=DenseStack(units=UNITS)).build(tasks, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(seed)
    for v in trunk.trainable_variables if random else []:
        v.assign(rng.normal(size=v.shape, scale=0.6))
    return trunk


def dense(layer, x):
    kernel, bias = (v.numpy().astype(np.float64) for v in layer.trainable_variables)
    return np.maximum(x @ kernel + bias, 0)


def reference(trunk, x):
    """w_u = softmax(<h2(u), h3(u)> / √d) over u in {p, q}, z = Σ_u w_u h1(u), row by row."""
    own = []
    for stack in trunk.bottoms:
        h = x.astype(np.float64)
        for layer in stack.layers:
            h = dense(layer, h)
        own.append(h)
    outputs, gates = [own[0]], []
    for transfer, q in zip(trunk.transfers, own[1:], strict=True):
        p = dense(transfer.passed, outputs[-1])
        h1, h2, h3 = (m.kernel.numpy().astype(np.float64) for m in (transfer.value, transfer.query, transfer.key))
        z, w = np.zeros_like(q), np.zeros([len(q), 2])
        for row in range(len(q)):
            pair = [p[row], q[row]]
            scores = np.array([(u @ h2) @ (u @ h3) / np.sqrt(UNITS[-1]) for u in pair])
            w[row] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            z[row] = sum(weight * (u @ h1) for weight, u in zip(w[row], pair))
        outputs.append(z)
        gates.append(w)
    return outputs, gates


@pytest.mark.parametrize("tasks", [2, 3])
def test_forward_pass_against_the_paper(tasks):
    trunk, x = make(tasks), sample()
    outputs, gates = reference(trunk, x)
    for r, expected in zip(trunk(x), outputs, strict=True):
        np.testing.assert_allclose(r, expected, rtol=1e-3, atol=1e-4)
    assert list(trunk.observed.gates) == [f"transfer_{k}" for k in range(1, tasks)]
    for gate, expected in zip(trunk.observed.gates.values(), gates, strict=True):
        assert gate.dtype == tf.float32
        np.testing.assert_allclose(gate, expected, rtol=1e-3, atol=1e-5)
        assert np.std(expected) > 0.01


def test_the_weights_and_that_none_start_equal():
    trunk, d = make(random=False), UNITS[-1]
    assert trunk.count_params() == TASKS * (WIDTH * 6 + 6 + 6 * d + d) + (TASKS - 1) * (d * d + d + 3 * d * d)
    kernels = [v.numpy() for v in trunk.trainable_variables if "kernel" in v.name]
    assert len(kernels) == 2 * TASKS + 4 * (TASKS - 1)
    assert not any(np.array_equal(a, b) for i, a in enumerate(kernels) for b in kernels[:i])


def test_a_loss_reaches_the_steps_down_to_its_own():
    trunk, x = make(), tf.constant(sample())
    with tf.GradientTape(persistent=True) as tape:
        representations = trunk(x)
    for k, r in enumerate(representations):
        for j, stack in enumerate(trunk.bottoms):
            gradients = tape.gradient(r, stack.trainable_variables)
            assert [g is not None for g in gradients] == [j <= k] * len(gradients)
        for j, transfer in enumerate(trunk.transfers, 1):
            gradients = tape.gradient(r, transfer.trainable_variables)
            assert [g is not None for g in gradients] == [j <= k] * 5
    assert trunk.last_shared_layer == [] and trunk.penalty() is None and trunk.faster == []


def test_what_every_task_reads_is_the_input():
    x = tf.constant(sample())
    assert make().shared(x, False) is x
