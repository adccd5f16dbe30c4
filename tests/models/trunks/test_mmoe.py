"""MMoE against a reference written from the paper, and which loss reaches which weight."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.trunks import AnyTrunk, DenseStack, MMoEConfig

TASKS, WIDTH, E, UNITS = 3, 7, 4, (6, 5)


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(seed=0, **expert):
    trunk = MMoEConfig(name="mmoe", experts=E, expert=DenseStack(units=UNITS, **expert)).build(TASKS, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(1)
    for bias in trunk.experts.biases:
        bias.assign(rng.normal(size=bias.shape))
    return trunk


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def reference(trunk, x):
    """f_k(x) = Σ_e g_k(x)_e f_e(x), g_k = softmax(W_k x), with loops over experts and rows' tasks."""
    layers = trunk.experts
    outputs = []
    for e in range(E):
        h = x.astype(np.float64)
        for i, units in enumerate(UNITS):
            kernel, columns = layers.kernels[i].numpy(), slice(e * units, (e + 1) * units)
            h = np.maximum(h @ kernel[e] + layers.biases[i].numpy()[columns], 0)
        outputs.append(h)
    gates = [softmax(x.astype(np.float64) @ g.logits.kernel.numpy()) for g in trunk.gates]
    return gates, [sum(g[:, [e]] * outputs[e] for e in range(E)) for g in gates]


def test_forward_pass_against_the_paper():
    trunk, x = make(), sample()
    gates, expected = reference(trunk, x)
    representations = trunk(x)
    assert len(representations) == TASKS
    for k in range(TASKS):
        np.testing.assert_allclose(representations[k], expected[k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(trunk.observed.gates[f"task_{k}"], gates[k], rtol=1e-5)
    assert not np.allclose(representations[0], representations[1])


def test_gates_are_distributions_without_bias():
    trunk = make()
    trunk(100 * sample())
    assert list(trunk.observed.gates) == ["task_0", "task_1", "task_2"]
    for gate in trunk.observed.gates.values():
        assert gate.dtype == tf.float32 and gate.shape == [50, E]
        np.testing.assert_allclose(tf.reduce_sum(gate, axis=1), 1, rtol=1e-6)
    trunk(np.zeros([2, WIDTH], np.float32))
    np.testing.assert_allclose(trunk.observed.gates["task_1"], 1 / E)


def test_number_of_weights_and_different_starts():
    trunk = make()
    per_expert = WIDTH * 6 + 6 + 6 * 5 + 5
    assert trunk.count_params() == E * per_expert + TASKS * WIDTH * E
    kernels = [g.logits.kernel.numpy() for g in trunk.gates]
    assert not np.array_equal(kernels[0], kernels[1])
    experts = trunk.experts.kernels[0].numpy()
    assert not any(np.allclose(experts[0], other) for other in experts[1:])


def test_a_loss_reaches_the_experts_and_its_own_gate_only():
    trunk, x = make(), tf.constant(sample())
    variables = trunk.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        representations = trunk(x)
    gates = {id(g.logits.kernel): k for k, g in enumerate(trunk.gates)}
    for k in range(TASKS):
        for v, gradient in zip(variables, tape.gradient(representations[k], variables)):
            assert (gradient is not None) == (gates.get(id(v), k) == k), v.name


def test_the_two_stages_part_at_the_experts():
    trunk, x = make(), tf.constant(sample())
    shared = trunk.shared(x, False)
    assert shared.shape == [50, E, 5]
    for a, b in zip(trunk.split(shared, x, False), trunk(x)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(shared)
        representations = trunk.split(shared, x, False)
    assert all(tape.gradient(r, shared) is not None for r in representations)
    assert trunk.last_shared_layer[0] is trunk.experts.kernels[-1] and len(trunk.last_shared_layer) == 1


def test_configuration_is_read_by_its_name():
    config = TypeAdapter(AnyTrunk).validate_json('{"name": "mmoe", "experts": 2, "expert": {"units": [3]}}')
    assert config == MMoEConfig(name="mmoe", experts=2, expert=DenseStack(units=(3,)))
    with pytest.raises(ValueError, match="experts"):
        MMoEConfig(name="mmoe", experts=0)
