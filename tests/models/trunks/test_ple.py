"""PLE against a reference written from the paper, and which loss reaches which weight at which level."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from models.trunks import AnyTrunk, DenseStack, PLEConfig

WIDTH, UNITS, OWN, SHARED = 7, (6, 5), 2, 3


def sample(rows=50, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def make(levels=2, tasks=3, seed=0, **expert):
    config = PLEConfig(
        name="ple",
        levels=levels,
        task_experts=OWN,
        shared_experts=SHARED,
        expert=DenseStack(units=UNITS, **expert),
    )
    trunk = config.build(tasks, seed=seed)
    trunk(tf.zeros([1, WIDTH]))
    rng = np.random.default_rng(1)
    for v in trunk.trainable_variables:
        if "bias" in v.name:
            v.assign(rng.normal(size=v.shape))
    return trunk


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def run_experts(layer, x):
    """Outputs of each expert, one array [batch, d] after the other."""
    outputs = []
    for e in range(layer.experts):
        h = x
        for i, units in enumerate(UNITS):
            kernel, columns = layer.kernels[i].numpy(), slice(e * units, (e + 1) * units)
            h = np.maximum(h @ kernel[e] + layer.biases[i].numpy()[columns], 0)
        outputs.append(h)
    return outputs


def gated(layer, stream, outputs):
    gate = softmax(stream @ layer.logits.kernel.numpy())
    assert gate.shape[1] == len(outputs)
    return gate, sum(gate[:, [e]] * output for e, output in enumerate(outputs))


def reference(trunk, x, tasks):
    """Eqs. 1-7 of the paper: selectors [own; shared] for tasks, [all] for the shared stream, until the last level."""
    streams, common, gates = [x.astype(np.float64)] * tasks, x.astype(np.float64), {}
    for i, level in enumerate(trunk.levels):
        own = [run_experts(level.experts[k], streams[k]) for k in range(tasks)]
        shared = run_experts(level.experts[tasks], common)
        after = []
        for k in range(tasks):
            gates[f"task_{k}_level_{i}"], stream = gated(level.gates[k], streams[k], own[k] + shared)
            after.append(stream)
        if i < len(trunk.levels) - 1:
            everything = [output for outputs in own for output in outputs] + shared
            gates[f"shared_level_{i}"], common = gated(level.gates[tasks], common, everything)
        streams = after
    return gates, streams


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("tasks", [2, 3])
def test_forward_pass_against_the_paper(levels, tasks):
    trunk, x = make(levels, tasks), sample()
    gates, expected = reference(trunk, x, tasks)
    representations = trunk(x)
    assert len(representations) == tasks
    for a, b in zip(representations, expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert set(trunk.observed.gates) == set(gates)
    for name, gate in trunk.observed.gates.items():
        np.testing.assert_allclose(gate, gates[name], rtol=1e-3, atol=1e-6)


def test_gates_are_distributions_and_the_last_level_has_no_shared_one():
    trunk = make()
    trunk(sample())
    width = {name: gate.shape[1] for name, gate in trunk.observed.gates.items()}
    tasks = {f"task_{k}_level_{i}": OWN + SHARED for k in range(3) for i in range(2)}
    assert width == tasks | {"shared_level_0": 3 * OWN + SHARED}
    for gate in trunk.observed.gates.values():
        assert gate.dtype == tf.float32
        np.testing.assert_allclose(tf.reduce_sum(gate, axis=1), 1, rtol=1e-6)


def test_number_of_weights_and_different_starts():
    trunk = make()
    experts, total = 3 * OWN + SHARED, 0
    for width, last in ((WIDTH, False), (UNITS[-1], True)):
        total += experts * (width * 6 + 6 + 6 * 5 + 5)
        total += width * (3 * (OWN + SHARED) + (0 if last else experts))
    assert trunk.count_params() == total
    for level in trunk.levels:
        columns = [e for layer in level.experts for e in layer.kernels[0].numpy()]
        correlation = np.corrcoef([c.ravel() for c in columns])
        assert np.abs(correlation - np.eye(experts)).max() < 0.9
    assert not np.array_equal(*(trunk.levels[0].gates[k].logits.kernel.numpy() for k in (0, 1)))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_which_loss_reaches_which_weight(levels):
    trunk, x, tasks = make(levels), tf.constant(sample()), 3
    with tf.GradientTape(persistent=True) as tape:
        representations = trunk(x)

    def reaching(layer):
        gradients = [tape.gradient(r, layer.trainable_variables) for r in representations]
        found = [[g is not None for g in per_task] for per_task in gradients]
        assert all(len(set(per_task)) == 1 for per_task in found)  # all weights of a layer alike
        return {k for k, per_task in enumerate(found) if per_task[0]}

    everyone = set(range(tasks))
    for i, level in enumerate(trunk.levels):
        last = i == levels - 1
        assert reaching(level.experts[tasks]) == everyone
        for k in range(tasks):
            # Below the last level the shared gate carries a task's own experts on to all tasks, but not its gate.
            assert reaching(level.experts[k]) == ({k} if last else everyone)
            # A gate two levels below the end also counts for all: its stream feeds experts that they all read.
            assert reaching(level.gates[k]) == (everyone if i < levels - 2 else {k})
        assert len(level.gates) == (tasks if last else tasks + 1)
        if not last:
            assert reaching(level.gates[tasks]) == everyone


def test_the_two_stages_part_at_the_embedded_input():
    trunk, x = make(), tf.constant(sample())
    assert trunk.shared(x, False) is x
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        representations = trunk.split(x, x, False)
    assert all(tape.gradient(r, x) is not None for r in representations)
    kernel = trunk.levels[-1].experts[-1].kernels[-1]
    assert kernel.shape == [SHARED, 6, 5]
    assert trunk.last_shared_layer[0] is kernel and len(trunk.last_shared_layer) == 1


def test_weights_and_dropout_positions_are_in_the_checkpoint(tmp_path):
    trunk, other, x = make(dropout=0.2), make(seed=7, dropout=0.2), sample()
    trunk(x, training=True)
    path = tf.train.Checkpoint(trunk=trunk).write(str(tmp_path / "c"))
    assert not np.allclose(trunk(x)[0], other(x)[0])
    tf.train.Checkpoint(trunk=other).read(path).assert_consumed()
    positions = [v for v in other.weights if v.dtype == tf.int64]
    assert len(positions) == 2 * 4 * len(UNITS) and {int(p) for p in positions} == {1}
    for a, b in zip(trunk(x), other(x)):
        assert np.array_equal(a, b)


def test_configuration_is_read_by_its_name():
    config = TypeAdapter(AnyTrunk).validate_json('{"name": "ple", "levels": 1, "expert": {"units": [3]}}')
    assert config == PLEConfig(name="ple", levels=1, expert=DenseStack(units=(3,)))
    for field in ("levels", "task_experts", "shared_experts"):
        with pytest.raises(ValueError, match=field):
            PLEConfig(name="ple", **{field: 0})
