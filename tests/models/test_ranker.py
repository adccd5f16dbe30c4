"""The ranker: it learns with every preset and balancer, touches only looked-up rows, and repeats itself."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism  # the public module only turns it on

from models.balancing import Static, Uncertainty
from models.optimizers import OptimizerConfig
from models.presets import PRESETS, ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from tests.transforms import FEATURES

ROWS = {"user": 50, "item": 40, "seller": 6, "hour": 5, "stock": 5}
BALANCERS = {"static": Static(name="static"), "uncertainty": Uncertainty(name="uncertainty")}


def make(preset="shared_bottom", balancer="static", seed=0, **optimizer):
    model = ModelConfig(preset=preset)
    config = OptimizerConfig(**optimizer)
    ranker = Ranker(FEATURES, ROWS, DEFAULT_TASKS, model, BALANCERS[balancer], config, seed=seed, probe_every=5)
    ranker.compile()
    return ranker


def data(rows=64, seed=0):
    rng = np.random.default_rng(seed)
    features = {f.name: rng.integers(1, ROWS[f.table], rows) for f in FEATURES if f.kind in ("id", "bucketed")}
    features["history"] = rng.integers(0, ROWS["item"], (rows, 3))
    features |= {n: rng.normal(size=rows).astype(np.float32) for n in ("price", "age")}
    click = rng.random(rows) < 0.5
    labels = np.stack([click, click & (rng.random(rows) < 0.5)], axis=1).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(rows)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_overfits_one_batch(preset, balancer):
    ranker = make(preset, balancer)
    batch = data()
    before = ranker.evaluate(batch, verbose=0, return_dict=True)
    ranker.dense_optimizer.learning_rate.assign(0.01)
    ranker.fit(batch.repeat(150), verbose=0)
    after = ranker.evaluate(batch, verbose=0, return_dict=True)
    assert all(after[name] < 0.2 * before[name] for name in before), (before, after)


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


def test_training_repeats_itself_with_the_same_seed():
    tf.config.experimental.enable_op_determinism()
    try:
        rankers = [make(seed=s) for s in (3, 3, 4)]
        for ranker in rankers:
            ranker.fit(data().repeat(5), verbose=0)
    finally:
        disable_op_determinism()
    first, same, other = ([w.numpy() for w in r.trainable_weights] for r in rankers)
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


def test_state_of_balancer_and_optimizers_is_in_the_checkpoint(tmp_path):
    ranker = make(balancer="uncertainty")
    ranker.fit(data().repeat(5), verbose=0)
    tf.train.Checkpoint(ranker=ranker).write(str(tmp_path / "c"))
    other = make(balancer="uncertainty", seed=9)
    other.fit(data(seed=1), verbose=0)
    tf.train.Checkpoint(ranker=other).read(str(tmp_path / "c")).assert_existing_objects_matched()
    assert int(other.dense_optimizer.iterations) == 5
    assert np.array_equal(other.balancer_state["log_variance"], ranker.balancer_state["log_variance"])
    assert (ranker.balancer_state["log_variance"].numpy() != 0).all()
    for a, b in zip(ranker.encoder.tables, other.encoder.tables):
        slots = (r.table_optimizer.get_slot(t, "accumulator") for r, t in ((ranker, a), (other, b)))
        assert np.array_equal(*slots)


def test_the_look_at_the_gradients_is_counted_and_kept():
    ranker = make()
    ranker.fit(data().repeat(11), verbose=0)
    gram = ranker.last_gram.numpy()
    assert int(ranker.probes) == 3  # steps 0, 5 and 10
    assert (np.diag(gram) > 0).all() and np.allclose(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() >= -1e-6


def test_clipping_bounds_the_step():
    free, clipped = make(), make(clip_norm=1e-6)
    for ranker in (free, clipped):
        ranker.dense_optimizer = tf.keras.optimizers.legacy.SGD(1.0)
    before = clipped.trunk.trainable_variables[0].numpy()
    for ranker in (free, clipped):
        ranker.fit(data(), verbose=0)
    assert np.abs(clipped.trunk.trainable_variables[0].numpy() - before).max() <= 1e-6
    assert np.abs(free.trunk.trainable_variables[0].numpy() - before).max() > 1e-4


def test_the_penalty_on_embeddings_shrinks_looked_up_rows_only():
    plain, shrunk = make(), make(embedding_l2=0.1)
    for ranker in (plain, shrunk):
        ranker.fit(data(rows=16).repeat(20), verbose=0)
    looked_up = ranker.encoder.lookup(next(iter(data(rows=16)))[0])[0].unique.numpy()
    norms = [np.linalg.norm(r.encoder.tables[0].numpy(), axis=1) for r in (plain, shrunk)]
    rest = np.setdiff1d(np.arange(len(norms[0])), looked_up)
    assert norms[1][looked_up].sum() < norms[0][looked_up].sum()
    assert np.array_equal(norms[0][rest], norms[1][rest])


def test_probabilities_of_the_funnel():
    outputs = make()(next(iter(data()))[0])
    assert list(outputs) == ["pctr", "pcvr", "pctcvr"]
    for p in outputs.values():
        assert p.shape == [64] and p.dtype == tf.float32 and ((p.numpy() > 0) & (p.numpy() < 1)).all()
