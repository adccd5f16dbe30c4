"""Several devices, and several workers, learn what one device learns; the chief alone leaves something behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.devices import Share, distributed, is_chief, own_files, strategy_of
from models.balancing import AnyBalancer
from models.section import UserError
from tests.components.trainer import toy_training
from tests.transforms import fit_transform

REPOSITORY = Path(__file__).parents[3]
BALANCERS = [get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(AnyBalancer)[0])]
STEPS = 9


# The whole, in processes of its own.


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> SimpleNamespace:
    """What two workers found, and what one device and two logical ones did."""
    folder = tmp_path_factory.mktemp("workers")
    from tests.components.trainer.multi_worker import FEATURES

    toy_training.write_rows(folder / "rows")
    raw = [{"item": [b"%d" % i], "row": [float(i)], "click": [i % 2], "purchase": [0]} for i in range(8)]
    fit_transform(raw, folder, FEATURES, weighted=False)
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in taken]
    for s in taken:
        s.close()
    calls = [("worker", "chief", 0), ("worker", "other", 1), ("devices", "devices", None)]
    running = []
    for kind, name, index in calls:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "-1"}
        if index is not None:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, "-m", "tests.components.trainer.multi_worker", kind, str(folder), name]
        log = (folder / f"{name}.log").open("w")
        running.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log))
    try:
        for (_, name, _), process in zip(calls, running):
            assert process.wait(timeout=1500) == 0, (folder / f"{name}.log").read_text()[-6000:]
    finally:
        for process in running:
            process.kill()
    found = {name: np.load(folder / f"{name}.npz") for _, name, _ in calls}
    return SimpleNamespace(folder=folder, **found)


def of(found, devices: str, balancer: str) -> dict[str, np.ndarray]:
    return {k.split("/", 2)[2]: found[k] for k in found.files if k.startswith(f"{devices}/{balancer}/")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_two_devices_and_two_workers_learn_what_one_device_learns(learned, balancer):
    one = of(learned.devices, "one", balancer)
    assert one["steps"] == STEPS and not one["left_out"].any() and len(one) > 8
    for other in (
        of(learned.devices, "mirrored", balancer),
        of(learned.chief, "workers", balancer),
        of(learned.other, "workers", balancer),
    ):
        assert list(other) == list(one)
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-5, atol=2e-6, err_msg=key)


@pytest.mark.slow
def test_balancers_end_at_different_weights(learned):
    """Or else equal weights would say nothing of them."""
    weights = {b: np.concatenate([v.ravel() for k, v in of(learned.devices, "one", b).items() if k[0].isdigit()])
               for b in BALANCERS}  # fmt: skip
    apart = [np.abs(weights[a] - weights[b]).max() for a in BALANCERS for b in BALANCERS if a < b]
    assert np.median(apart) > 1e-4  # fifty times what equal weights may differ by


@pytest.mark.slow
def test_workers_go_on_from_the_chiefs_checkpoint_and_the_chief_exports(learned):
    from tests.components.trainer.multi_worker import exported

    # Both died at step 5; the last checkpoint was that of step 3, and nothing is left of it in the end.
    assert learned.chief["left"].tolist() == ["checkpoint", "ckpt-3.data-00000-of-00001", "ckpt-3.index"]
    assert not list((learned.folder / "checkpoints").glob("*"))
    record = json.loads((learned.folder / "chief/resumed/model_run/training.json").read_text())
    straight = json.loads((learned.folder / "devices/model_run/training.json").read_text())
    assert (record["resumed_at"], straight["resumed_at"]) == ([3], []) and record["steps"] == STEPS
    assert straight["evaluation"] and record["evaluation"] == pytest.approx(straight["evaluation"], rel=1e-5, abs=1e-6)
    weights, expected = (exported(learned.folder / path / "model") for path in ("chief/resumed", "devices"))
    assert list(weights) == list(expected) and len(expected) >= 5
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], rtol=1e-5, atol=2e-6, err_msg=name)
    assert not list((learned.folder / "other").rglob("*"))


# Its parts.


@pytest.mark.parametrize(
    ("task", "others", "chief"),
    [
        (("worker", 0), {}, True),
        (("worker", 1), {}, False),
        (("worker", 0), {"chief": ["a:1"]}, False),
        (("chief", 0), {"chief": ["a:1"]}, True),
    ],
)
def test_the_chief_writes_and_the_others_throw_away(task, others, chief):
    cluster = tf.train.ClusterSpec({"worker": ["b:1", "c:1"], **others})
    strategy = mock.create_autospec(tf.distribute.MultiWorkerMirroredStrategy, instance=True)
    strategy.cluster_resolver = SimpleNamespace(task_type=task[0], task_id=task[1], cluster_spec=lambda: cluster)
    assert is_chief(strategy) == chief
    with own_files(strategy) as own:
        paths = {own(path) for path in ("/mnt/model", "/mnt/run", "gs://b/run")}
        for path in paths - {"gs://b/run"} if not chief else ():
            Path(path).mkdir(parents=True)
    assert (paths == {"/mnt/model", "/mnt/run", "gs://b/run"}) == chief
    assert len(paths) == 3 and not any(Path(path).exists() for path in paths)


def test_one_device_is_its_own_chief(tmp_path):
    with own_files(tf.distribute.get_strategy()) as own:
        assert own(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        "", "{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "evaluator": ["b:1"]}, "task": {"type": "evaluator", "index": 0}}',
    ],
)  # fmt: skip
def test_workers_that_are_not_told_of_each_other(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match="training.strategy: expected the workers in TF_CONFIG, .* for multi_worker"):
        strategy_of("multi_worker")


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("pieces", [2, 3])
def test_the_shares_of_a_batch_are_the_batch(pattern, cache, pieces):
    examples = toy_training.examples(pattern, cache=cache, batch_size=16)
    for whole, shared in (
        (examples.epoch(1, 2), lambda share: examples.epoch(1, 2, share)),
        (examples.in_order(), examples.in_order),
    ):
        batches = [features["row"].numpy().tolist() for features, _ in whole]
        parts = [
            [features["row"].numpy().tolist() for features, _ in shared(Share(pieces, i, i + 1))] for i in range(pieces)
        ]
        assert [[row for part in together for row in part] for together in zip(*parts)] == batches
        assert max(len(p) for part in parts for p in part) == -(-16 // pieces)
        # Two of them on one worker come one after the other.
        both = [features["row"].numpy().tolist() for features, _ in shared(Share(pieces, 0, 2))]
        assert both == [p for pair in zip(*parts[:2]) for p in pair]


def test_on_one_device_nothing_is_cut():
    data = tf.data.Dataset.range(3)
    assert distributed(tf.distribute.get_strategy(), lambda *share: data) is data
