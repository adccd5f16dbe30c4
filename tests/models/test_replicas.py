"""Several replicas take the step of one device with the whole batch."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models.replicas import gather_from_replicas, replicas, sum_over_replicas

REPOSITORY = Path(__file__).parents[2]
BATCH = 16
RUNS = (16 + 16 + 9, 16 + 5)  # rows; the last batch is cut into 8 + 1 rows, and into 5 + 0
STEPS = 5
TOWERS = {"normalization": "batch"}
# Every balancer at its own level is in the trainer's tests (tests/components/trainer/test_devices.py).
CASES = {
    "uncertainty, with a probe": {"preset": "mmoe", "balancer": {"name": "uncertainty"}, "probe_every": 2},
    "pcgrad at the cut": {"preset": "ple", "balancer": {"name": "pcgrad", "level": "representation"}},
    "pcgrad at the cut, held": {
        "preset": "shared_bottom",
        "balancer": {"name": "pcgrad", "level": "representation", "refresh_every": 2},
    },
    "gradvac per layer": {"preset": "cross_stitch", "balancer": {"name": "gradvac"}},
    "gradnorm at the cut": {"preset": "esmm", "balancer": {"name": "gradnorm"}},
    "batch normalisation": {
        "preset": "shared_bottom",
        "balancer": {"name": "static"},
        "heads": TOWERS,
        "rows": (16 + 16 + 9, 16 + 10),
    },
    "calibrator": {"preset": "aitm", "balancer": {"name": "uncertainty"}},
    "penalties and clipping": {
        "preset": "soft_sharing",
        "balancer": {"name": "pcgrad"},
        "optimizer": {"embedding_l2": 0.01, "dense_l2": 0.01, "clip_norm": 0.05},
    },
}


def train(case, strategy):
    """Losses and all that was learned of training on `RUNS`, without a strategy or under one."""
    from pydantic import TypeAdapter

    from models.balancing import AnyBalancer
    from models.features import IdFeature, IdListFeature, NumberFeature
    from models.optimizers import OptimizerConfig
    from models.presets import PRESETS, ModelConfig
    from models.ranker import Ranker
    from models.tasks import DEFAULT_TASKS

    features = (
        IdFeature(kind="id", name="user", side="user", dimension=3),
        IdListFeature(kind="id_list", name="history", side="user", dimension=4, max_length=3, shares="item"),
        IdFeature(kind="id", name="item", side="item", dimension=4),
        NumberFeature(kind="number", name="price", side="item"),
    )
    trunk = json.loads(PRESETS[case["preset"]].trunk.canonical_json())
    for part in ("bottom", "expert"):
        if part in trunk:
            trunk[part]["units"] = [6]
    heads = json.loads(PRESETS[case["preset"]].heads.canonical_json()) | {"tower": [5]} | case.get("heads", {})
    model = ModelConfig.model_validate_json(json.dumps({"preset": case["preset"], "trunk": trunk, "heads": heads}))
    optimizer = OptimizerConfig.model_validate_json(json.dumps(case.get("optimizer", {})))
    # Adam would blow the rounding of a gradient of 0 up to a whole step.
    dense = optimizer.dense.model_copy(update={"epsilon": 1e-2, "learning_rate": 0.05})
    embedding = optimizer.embedding.model_copy(update={"initial_accumulator": 0.1, "learning_rate": 0.1})
    ranker = Ranker(
        features,
        {"user": 12, "item": 9},
        DEFAULT_TASKS,
        model,
        TypeAdapter(AnyBalancer).validate_json(json.dumps(case["balancer"])),
        optimizer.model_copy(update={"dense": dense, "embedding": embedding}),
        steps=STEPS,
        probe_every=case.get("probe_every", 0),
    )
    ranker.compile()
    losses = []
    for number, rows in enumerate(case.get("rows", RUNS)):
        rng = np.random.default_rng(number)
        batch = {"user": rng.integers(1, 12, rows), "item": rng.integers(1, 9, rows)}
        batch |= {"history": rng.integers(0, 9, (rows, 3)), "price": rng.normal(size=rows).astype(np.float32)}
        # Clicks first: the parts of a batch have different numbers of rows in the second task's sample space.
        click = np.arange(rows) % BATCH < rng.integers(3, 8)
        labels = np.stack([click, click & (rng.random(rows) < 0.5)], axis=1).astype(np.float32)
        labels[1::BATCH, 1] = np.nan
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        data = tf.data.Dataset.from_tensor_slices((batch, labels)).batch(BATCH).with_options(options)
        history = ranker.fit(data, verbose=0).history
        losses.append([v[0] for v in history.values()])
    # A mean's total and count are those of all replicas together; `losses` has the means.
    means = {id(v) for m in ranker.loss_means for v in m.weights}
    # On several replicas, a look at the gradients is at the cut.
    means |= {id(v) for v in (ranker.last_gram, ranker.probes, ranker.conflicts) if case.get("probe_every")}
    found = {f"{i} {v.name}": v.numpy() for i, v in enumerate(ranker.weights) if id(v) not in means}
    found |= {f"balancer {n}": v.numpy() for n, v in ranker.balancer_state.items()}
    found |= {"losses": np.array(losses), "left_out": ranker.left_out.numpy()}
    found["task_weights"] = ranker.task_weights.numpy()
    found["optimizer"] = ranker.dense_optimizer.iterations.numpy()
    return found


def sums_and_gathers(strategy):
    def of_replica():
        me = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        ids = tf.range(2 + tf.cast(me, tf.int64), dtype=tf.int64) + 10 * tf.cast(me, tf.int64)
        (total, pair) = sum_over_replicas([me + 1.0, tf.stack([me, 1.0])])
        return tf.constant(replicas()), total, pair, gather_from_replicas(ids)

    found = tf.function(lambda: strategy.run(of_replica))()
    return [[np.array(v).tolist() for v in strategy.experimental_local_results(f)] for f in found]


def main(out):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    found = {}
    for name, case in CASES.items():
        found |= {f"{name}/one/{key}": value for key, value in train(case, None).items()}
        with strategy.scope():
            found |= {f"{name}/two/{key}": value for key, value in train(case, strategy).items()}
    np.savez(out, **found, sums=json.dumps(sums_and_gathers(strategy)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, warm_python):
    """All cases on one device and on two, in a process of its own: devices are set before TensorFlow starts."""
    out = tmp_path_factory.mktemp("replicas") / "found.npz"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = warm_python.run(["python", __file__, str(out)], env=env, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-8000:]
    return np.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_replicas_learn_what_one_device_learns(runs, name):
    one, two = (
        {k.split("/", 2)[2]: runs[k] for k in runs.files if k.startswith(f"{name}/{which}/")}
        for which in ("one", "two")
    )
    assert list(one) == list(two) and len(one) > 10
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=2e-6, err_msg=key)
    assert one["optimizer"] == STEPS and not one["left_out"].any()
    # It did learn, so that equal weights say something.
    assert (one["losses"] > 0).any(axis=0).all() and np.ptp(one["losses"], axis=0).min() > 1e-4


@pytest.mark.slow
def test_sums_and_concatenations_are_the_same_on_every_replica(runs):
    count, total, pair, ids = json.loads(str(runs["sums"]))
    assert count == [2, 2] and total == [3.0, 3.0] and pair == [[1.0, 2.0]] * 2
    assert ids == [[0, 1, 10, 11, 12]] * 2


def test_on_one_device_nothing_is_summed_or_gathered():
    assert replicas() == 1
    values = [tf.constant([1.0, 2.0]), tf.constant(3.0)]
    assert all(a is b for a, b in zip(sum_over_replicas(values), values))
    assert sum_over_replicas([]) == []
    ids = tf.constant([4, 5])
    assert gather_from_replicas(ids) is ids


if __name__ == "__main__":
    main(sys.argv[1])
