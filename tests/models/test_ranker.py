"""The ranker: it learns with every preset and balancer, touches only looked-up rows, and repeats itself."""

import json
import typing

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pydantic import TypeAdapter
from tensorflow.python.framework.config import disable_op_determinism  # the public module only turns it on

from models.balancing import AnyBalancer
from models.features import IdFeature, NumberFeature
from models.optimizers import DenseOptimizer, EmbeddingOptimizer, OptimizerConfig
from models.presets import PRESETS, ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from tests.transforms import FEATURES

ROWS = {"user": 50, "item": 40, "seller": 6, "hour": 5, "stock": 5}
BALANCERS = [
    typing.get_args(c.model_fields["name"].annotation)[0] for c in typing.get_args(typing.get_args(AnyBalancer)[0])
]
STOPS_EARLY = {("esmm", "mgda"), ("esmm", "pe_ltr"), ("cross_stitch", "famo")}
FEW = (
    IdFeature(kind="id", name="item", side="item", dimension=4),
    NumberFeature(kind="number", name="price", side="item"),
)


def balancer(name, **options):
    return TypeAdapter(AnyBalancer).validate_json(json.dumps({"name": name, **options}))


def small(preset, **heads):
    """A preset with layers of a few units."""
    trunk = json.loads(PRESETS[preset].trunk.canonical_json())
    for part in ("bottom", "expert"):
        if part in trunk:
            trunk[part]["units"] = [8]
    heads = json.loads(PRESETS[preset].heads.canonical_json()) | {"tower": [8]} | heads
    return ModelConfig.model_validate_json(json.dumps({"preset": preset, "trunk": trunk, "heads": heads}))


def make(
    preset="shared_bottom",
    name="static",
    *,
    seed=0,
    features=FEATURES,
    model=None,
    steps=1,
    probe_every=5,
    precision="float32",
    xla=False,
    optimizer=None,
    heads=None,
    **options,
):
    ranker = Ranker(
        features,
        ROWS,
        DEFAULT_TASKS,
        model or small(preset, **(heads or {})),
        balancer(name, **options),
        OptimizerConfig(**(optimizer or {})),
        steps=steps,
        seed=seed,
        probe_every=probe_every,
        precision=precision,
        xla=xla,
    )
    ranker.compile()
    return ranker


def arrays(rows=64, seed=0):
    rng = np.random.default_rng(seed)
    features = {f.name: rng.integers(1, ROWS[f.table], rows) for f in FEATURES if f.kind in ("id", "bucketed")}
    features["history"] = rng.integers(0, ROWS["item"], (rows, 3))
    features |= {n: rng.normal(size=rows).astype(np.float32) for n in ("price", "age")}
    click = rng.random(rows) < 0.5
    labels = np.stack([click, click & (rng.random(rows) < 0.5)], axis=1).astype(np.float32)
    return features, labels


def data(rows=64, seed=0):
    return tf.data.Dataset.from_tensor_slices(arrays(rows, seed)).batch(rows)


def weights_of(ranker):
    return [w.numpy() for w in ranker.trainable_weights]


@pytest.fixture
def deterministic():
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", BALANCERS)
def test_overfits_one_batch(preset, name):
    rows, limit = 16, 120
    features = {"item": tf.range(1, rows + 1), "price": tf.random.stateless_normal([rows], [0, 1])}
    labels = tf.stack([tf.cast(tf.range(rows) % n == 0, tf.float32) for n in (2, 4)], axis=1)
    rates = {"dense": DenseOptimizer(learning_rate=0.02), "embedding": EmbeddingOptimizer(learning_rate=0.2)}
    ranker = make(preset, name, features=FEW, steps=limit, probe_every=0, optimizer=rates)

    def losses():
        return np.array(ranker.heads.task_losses(ranker._logits(ranker.encoder(features)), tf.unstack(labels, axis=1)))

    before, steps = losses(), 0
    # Step by step and not as a graph: tracing 135 of them would take minutes.
    while (losses() > 0.2 * before).any() and steps < limit:
        for _ in range(10):
            ranker.train_step((features, labels))
        steps += 10
    learned = losses() <= 0.2 * before
    if (preset, name) in STOPS_EARLY:
        # Once one task has nothing left to learn, its gradient is the shortest of all combinations (MGDA; both of
        # ESMM's losses reach the first tower), or 1 / loss nearly all of the weight (FAMO). The other stands still.
        assert learned.any() and float(tf.reduce_sum(ranker.task_weights * tf.cast(learned, tf.float32))) > 0.99
    else:
        assert learned.all(), (before, losses(), ranker.task_weights.numpy())
    assert not ranker.left_out.numpy().any()


@pytest.mark.parametrize("preset", ["esmm", "ple", "aitm"])
def test_fit_overfits_one_batch(preset):
    ranker = make(preset, optimizer={"dense": DenseOptimizer(learning_rate=0.02)})
    batch = data()
    before = ranker.evaluate(batch, verbose=0, return_dict=True)
    ranker.fit(batch.repeat(100), verbose=0)
    after = ranker.evaluate(batch, verbose=0, return_dict=True)
    losses = [m.name for m in ranker.loss_means]
    assert all(after[n] < 0.2 * before[n] for n in losses), (before, after)
    assert after["ctr_auc"] > 0.99 and after["ctr_log_loss"] == pytest.approx(after[losses[0]], rel=1e-4)


def test_rows_that_were_not_looked_up_stay_as_they_were():
    ranker = make()
    before = [t.numpy() for t in ranker.encoder.tables]
    batch = data(rows=8)
    features, _ = next(iter(batch))
    lookups = ranker.encoder.lookup(features)
    ranker.fit(batch, verbose=0)
    for table, old, lookup in zip(ranker.encoder.tables, before, lookups):
        changed = np.flatnonzero((table.numpy() != old).any(axis=1))
        assert len(changed) > 0 and set(changed) <= set(lookup.unique.numpy())
        assert len(changed) < len(old)


def test_training_repeats_itself_with_the_same_seed(deterministic):
    rankers = [make(seed=s) for s in (3, 3, 4)]
    for ranker in rankers:
        ranker.fit(data().repeat(5), verbose=0)
    first, same, other = (weights_of(r) for r in rankers)
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


@pytest.mark.parametrize("name", ["static", "gradnorm"])
def test_the_probe_does_not_change_training(deterministic, name):
    with_probe, without = make(name=name, probe_every=2), make(name=name, probe_every=0)
    for ranker in (with_probe, without):
        ranker.fit(data().repeat(5), verbose=0)
    assert int(with_probe.probes) == 3 and int(without.probes) == 0
    assert all(np.array_equal(a, b) for a, b in zip(weights_of(with_probe), weights_of(without)))
    for state, value in with_probe.balancer_state.items():
        assert np.array_equal(value, without.balancer_state[state])


def test_the_look_at_the_gradients_is_counted_and_kept():
    ranker, exact = make(), make(name="pcgrad")
    ranker.fit(data().repeat(11), verbose=0)
    gram = ranker.last_gram.numpy()
    assert int(ranker.probes) == 3  # steps 0, 5 and 10
    assert (np.diag(gram) > 0).all() and np.allclose(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() >= -1e-6
    first = make()
    for r in (first, exact):
        r.fit(data(), verbose=0)
    np.testing.assert_allclose(first.last_gram, exact.last_gram, rtol=1e-4)


def test_conflicts_are_counted():
    ranker = make(name="pcgrad")
    features, _ = arrays()
    # Every row has opposite labels, on the same features.
    labels = np.tile([[1.0, 0.0]], (64, 1)).astype(np.float32)
    seen = np.zeros((2, 2))
    for _ in range(4):
        ranker.fit(tf.data.Dataset.from_tensors((features, labels)), verbose=0)
        seen += ranker.last_gram.numpy() < 0
    assert np.array_equal(ranker.conflicts, seen) and int(ranker.probes) == 4


def test_clipping_bounds_the_norm_of_the_combined_gradient():
    free, clipped = make(), make(optimizer={"clip_norm": 1e-3})
    changes = []
    for ranker in (free, clipped):
        ranker.dense_optimizer = ranker.table_optimizer = keras.optimizers.legacy.SGD(1.0)
        before = weights_of(ranker)
        ranker.fit(data(), verbose=0)
        changes.append(np.concatenate([(a - b).ravel() for a, b in zip(weights_of(ranker), before)]))
    assert np.linalg.norm(changes[0]) > 0.1
    assert np.linalg.norm(changes[1]) == pytest.approx(1e-3, rel=1e-2)
    # One factor for all of it, tables included.
    np.testing.assert_allclose(changes[1] * np.linalg.norm(changes[0]) / 1e-3, changes[0], atol=2e-3)


def test_the_penalty_on_embeddings_shrinks_looked_up_rows_only():
    plain, shrunk = make(), make(optimizer={"embedding_l2": 0.1})
    for ranker in (plain, shrunk):
        ranker.fit(data(rows=16).repeat(20), verbose=0)
    looked_up = plain.encoder.lookup(next(iter(data(rows=16)))[0])[0].unique.numpy()
    norms = [np.linalg.norm(r.encoder.tables[0].numpy(), axis=1) for r in (plain, shrunk)]
    rest = np.setdiff1d(np.arange(len(norms[0])), looked_up)
    assert norms[1][looked_up].sum() < norms[0][looked_up].sum()
    assert np.array_equal(norms[0][rest], norms[1][rest])


def test_the_penalty_on_kernels_is_outside_the_balancing():
    plain, shrunk = make(), make(optimizer={"dense_l2": 0.5})
    kernels = [next(v for v in r.trunk.trainable_variables if "kernel" in v.name) for r in (plain, shrunk)]
    before = kernels[0].numpy()
    for ranker in (plain, shrunk):
        ranker.dense_optimizer = keras.optimizers.legacy.SGD(1.0)
        ranker.fit(data(), verbose=0)
    np.testing.assert_allclose(kernels[0] - kernels[1], 0.5 * before, atol=1e-5)
    np.testing.assert_allclose(plain.last_gram, shrunk.last_gram, rtol=1e-5)


def test_probabilities_of_the_funnel():
    outputs = make()(next(iter(data()))[0])
    assert list(outputs) == ["pctr", "pcvr", "pctcvr"]
    for p in outputs.values():
        assert p.shape == [64] and p.dtype == tf.float32 and ((p.numpy() > 0) & (p.numpy() < 1)).all()


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("missing", [False, True], ids=["no click", "labels missing"])
def test_an_empty_batch_of_a_task_is_a_zero_gradient_and_no_nan(name, missing):
    ranker = make(name=name, steps=10)
    features, labels = arrays(16)
    full = {n: tf.constant(v) for n, v in features.items()}, tf.constant(labels)
    if missing:
        labels[:, 1] = np.nan
    else:
        labels[:] = 0.0
    batch = full[0], tf.constant(labels)
    tower = ranker.heads.towers[1].trainable_variables
    start = [v.numpy() for v in tower]
    ranker.train_step(batch)
    assert all(np.array_equal(v, old) for v, old in zip(tower, start))
    ranker.train_step(full)
    moments = [ranker.dense_optimizer.get_slot(v, "m").numpy() for v in tower]
    assert any(m.any() for m in moments)
    ranker.train_step(batch)
    for v, m in zip(tower, moments):
        # Adam's mean of the gradients, to which 0 was added.
        np.testing.assert_allclose(ranker.dense_optimizer.get_slot(v, "m"), 0.9 * m, rtol=1e-5)
    everything = [*weights_of(ranker), *(v.numpy() for v in ranker.balancer_state.values()), ranker.last_gram.numpy()]
    assert all(np.isfinite(v).all() for v in everything)
    assert np.array_equal(ranker.left_out, [0, 0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("static", {}),
        ("uncertainty", {}),
        ("gradnorm", {}),
        ("famo", {}),
        ("mgda", {"level": "representation"}),
        ("nash_mtl", {}),
        ("gradvac", {}),
        ("pcgrad", {"level": "representation", "refresh_every": 2}),
    ],
)
def test_a_task_with_an_infinite_loss_is_left_out(name, options):
    ranker = make(name=name, probe_every=2, **options)
    features, labels = ({n: tf.constant(v) for n, v in arrays(16)[0].items()}, tf.constant(arrays(16)[1]))
    ranker.train_step((features, labels))
    state = {n: v.numpy() for n, v in ranker.balancer_state.items()}
    logit = ranker.heads.towers[1].layers[-1].bias
    logit.assign([np.inf])
    for _ in range(2):
        ctr = ranker.heads.towers[0].trainable_variables[0].numpy()
        ranker.train_step((features, labels))
        assert np.abs(ranker.heads.towers[0].trainable_variables[0].numpy() - ctr).max() > 1e-5
    assert ranker.left_out.numpy().tolist() == [0, 2]
    for n, value in ranker.balancer_state.items():
        assert np.array_equal(value, state[n])
    assert not any(np.isnan(w).any() for w in weights_of(ranker))
    assert np.isfinite(ranker.last_gram).all() and np.isfinite(ranker.task_weights).all()
    assert np.isfinite(ranker.loss_means[1].result()) and float(ranker.loss_means[1].result()) > 0
    logit.assign([0.0])
    ranker.train_step((features, labels))
    assert ranker.left_out.numpy().tolist() == [0, 2] and all(np.isfinite(w).all() for w in weights_of(ranker))


@pytest.mark.parametrize(
    ("preset", "name", "options"),
    [
        ("mmoe", "static", {}),
        ("shared_bottom", "gradnorm", {}),
        ("shared_bottom", "mgda", {"level": "representation"}),
        ("ple", "pcgrad", {}),
        ("shared_bottom", "aligned_mtl", {"level": "representation"}),
    ],
)
def test_compiled_by_xla_it_trains_as_without(preset, name, options):
    plain, compiled = (make(preset, name, xla=xla, probe_every=0, **options) for xla in (False, True))
    for ranker in (plain, compiled):
        for optimizer in (ranker.dense_optimizer, ranker.table_optimizer):
            optimizer.epsilon = 1e-3  # else a gradient that is rounding alone moves a weight as far as any other
        for rows in (32, 17):
            ranker.fit(data(rows, seed=rows).repeat(2), verbose=0)
    for a, b in zip(weights_of(plain), weights_of(compiled)):
        np.testing.assert_allclose(a, b, atol=2e-5)
    np.testing.assert_allclose(plain.last_gram, compiled.last_gram, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("preset", "name"), [("mmoe", "static"), ("shared_bottom", "pcgrad")])
@pytest.mark.parametrize("level", ["representation", "parameters"])
def test_bfloat16_is_for_the_dense_layers_only(preset, name, level):
    policy = keras.mixed_precision.global_policy().name
    options = {"level": level} if name == "pcgrad" else {}
    rate = {"dense": DenseOptimizer(learning_rate=0.02)}
    ranker = make(preset, name, precision="mixed_bfloat16", optimizer=rate, **options)
    assert keras.mixed_precision.global_policy().name == policy == "float32"
    dense = [m for m in ranker.submodules if isinstance(m, keras.layers.Dense)]
    assert dense and {m.compute_dtype for m in dense} == {"bfloat16"}
    batch = data()
    before = ranker.evaluate(batch, verbose=0, return_dict=True)
    ranker.fit(batch.repeat(40), verbose=0)
    after = ranker.evaluate(batch, verbose=0, return_dict=True)
    assert all(after[m.name] < 0.7 * before[m.name] for m in ranker.loss_means), (before, after)
    assert {w.dtype for w in weights_of(ranker)} == {np.dtype("float32")}
    assert {p.dtype for p in ranker(next(iter(batch))[0]).values()} == {tf.float32}
    assert ranker.last_gram.dtype == tf.float32 and np.linalg.eigvalsh(ranker.last_gram.numpy()).min() > -1e-5
    assert keras.mixed_precision.global_policy().name == policy


@pytest.mark.parametrize("preset", PRESETS)
def test_gates_are_recorded(preset):
    ranker = make(preset)
    ranker.fit(data(), verbose=0)
    gates = ranker.trunk.observed.gates
    assert set(ranker.gate_use) == set(ranker.gate_entropy) == set(gates)
    assert bool(gates) == (preset in ("mmoe", "cgc", "ple", "aitm"))
    for gate in gates:
        use, entropy = ranker.gate_use[gate].numpy(), float(ranker.gate_entropy[gate])
        assert use.sum() == pytest.approx(1.0, abs=1e-5) and (use > 0).all()
        # A mean of entropies is at most the entropy of the mean.
        assert 0.0 < entropy <= -(use * np.log(use)).sum() + 1e-5


def test_layers_with_the_same_names_are_groups_of_their_own():
    trunk = {"name": "cross_stitch", "bottom": {"units": [8, 4]}}
    model = ModelConfig.model_validate_json(json.dumps({"preset": "cross_stitch", "trunk": trunk}))
    ranker = make(model=model, name="gradvac")
    # Two merged tables; per task two dense layers, a hidden layer and a logit; two stitches.
    assert ranker.balancer_state["target"].shape == [2 + 2 * 4 + 2, 2, 2]
    groups = {v.ref(): g for v, g in zip([*ranker.encoder.tables, *ranker._dense], ranker._options.groups)}
    owners = [m for m in ranker.submodules if isinstance(m, keras.layers.Dense)]
    assert len({v.name for m in owners for v in m.weights}) < len({v.ref() for m in owners for v in m.weights})
    for owner in owners:
        assert groups[owner.kernel.ref()] == groups[owner.bias.ref()]
    assert len({groups[owner.kernel.ref()] for owner in owners}) == len(owners) == 8
    ranker.fit(data().repeat(2), verbose=0)
    assert np.isfinite(ranker.balancer_state["target"]).all()


def test_weights_with_a_rate_of_their_own():
    ranker = make("cross_stitch", optimizer={"dense": DenseOptimizer(learning_rate=0.001)})
    rows = [v for v, _ in ranker.trunk.faster]
    before = [v.numpy() for v in rows]
    kernel = ranker.trunk.task_layers[0][0].trainable_variables[0]
    old = kernel.numpy()
    ranker.fit(data(), verbose=0)
    # Adam's first step is its rate, whatever the gradient.
    for v, b in zip(rows, before):
        np.testing.assert_allclose(np.abs(v - b), 0.01, rtol=1e-2)
    assert np.abs(kernel - old).max() <= 0.00101


@pytest.mark.parametrize(
    ("preset", "name", "options"),
    [
        ("cross_stitch", "uncertainty", {}),
        ("shared_bottom", "gradvac", {}),
        ("shared_bottom", "famo", {}),
        ("shared_bottom", "dwa", {"period_steps": 2}),
        ("shared_bottom", "nash_mtl", {"refresh_every": 2}),
    ],
)
def test_training_goes_on_bit_for_bit_from_a_checkpoint(deterministic, tmp_path, preset, name, options):
    def new(seed):
        return make(preset, name, heads={"dropout": 0.3}, steps=12, seed=seed, **options)

    def part(ranker, seeds):
        for seed in seeds:
            ranker.fit(data(seed=seed), verbose=0)

    whole = new(seed=1)
    part(whole, range(6))
    tf.train.Checkpoint(ranker=whole).write(str(tmp_path / "c"))
    part(whole, range(6, 12))

    resumed = new(seed=1)
    for variable in resumed.trainable_weights:
        variable.assign(variable + 1.0)
    reader = tf.train.Checkpoint(ranker=resumed).read(str(tmp_path / "c"))
    part(resumed, [6])
    reader.assert_consumed()
    part(resumed, range(7, 12))
    for a, b in zip(weights_of(whole), weights_of(resumed)):
        assert np.array_equal(a, b)
    for n, value in whole.balancer_state.items():
        assert np.array_equal(value, resumed.balancer_state[n])
    assert any(np.abs(v.numpy()).any() for v in whole.balancer_state.values())
    assert int(resumed.dense_optimizer.iterations) == 12
