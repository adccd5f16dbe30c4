import json
import os
from pathlib import Path

import pytest
import tensorflow as tf

from components.trainer.checkpoints import checkpoint_folder
from components.trainer.config import TrainingConfig
from models.presets import ModelConfig
from tests.components.trainer.toy_training import Killed, Training

MODEL = ModelConfig.from_json(
    json.dumps({"trunk": {"name": "shared_bottom", "bottom": {"units": [4]}}, "heads": {"name": "plain", "tower": []}})
)
CASES = ["uncertainty", "pcgrad in cached rows"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, warm_python):
    folder = tmp_path_factory.mktemp("interrupted")
    root = Path(__file__).resolve().parents[3]
    command = ["python", str(Path(__file__).with_name("interrupted.py")), str(folder)]
    done = warm_python.run(command, env={**os.environ, "PYTHONPATH": str(root)}, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_training_that_was_interrupted_ends_as_if_it_was_not_bit_for_bit(interrupted, case):
    found = interrupted[case]
    # From the beginning until there is a checkpoint, then from the last one before each kill.
    assert found["begun"] == [0, 0, 3, 6, 9] and found["resumed_at"] == [3, 6, 9]
    assert found["missing"] == found["different"] == []
    assert found["records equal"] and found["windows"] == [0, 4, 8, 12]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_of_the_state_was_compared(interrupted, case):
    names = " ".join(interrupted[case]["names"])
    parts = ["table_optimizer/accumulator", "dense_optimizer/m/", "dense_optimizer/v/", "dense_optimizer/iter"]
    parts += ["tables_2/.ATTRIBUTES", "moving_mean", "/position/", "loss_means/0/total", "left_out", "task_weights"]
    parts += {
        "uncertainty": ["balancer_state/log_variance", "gate_use", "gate_entropy"],
        "pcgrad in cached rows": ["faster_optimizers/0/m", "faster_optimizers/1/iter", "last_gram", "conflicts"],
    }[case]
    assert [part for part in parts if part not in names] == []


def training(pattern, tmp_path, name, **settings):
    config = TrainingConfig(batch_size=16, probe_every=4, **settings)
    return Training(pattern, tmp_path / name, training=config, model=MODEL, checkpoints=tmp_path / "checkpoints")


def test_only_the_last_checkpoint_is_kept_and_none_after_the_end(pattern, tmp_path):
    first = training(pattern, tmp_path, "first", checkpoint_every=2)
    assert not first.checkpoints.restore()
    with pytest.raises(Killed):
        first.run(die_after=5)
    assert [p.name for p in (tmp_path / "checkpoints").glob("*.index")] == ["ckpt-4.index"]
    second = training(pattern, tmp_path, "second", checkpoint_every=2)
    assert second.checkpoints.restore() and second.record.steps == 4
    assert [w["step"] for w in second.record.windows] == [0]
    second.checkpoints.delete()
    assert not (tmp_path / "checkpoints").exists()
    second.checkpoints.delete()


def test_no_checkpoints_where_none_are_asked_for(pattern, tmp_path):
    without = training(pattern, tmp_path, "without", checkpoint_every=0).run()
    assert not (tmp_path / "checkpoints").exists() and not without.checkpoints.restore()


def test_a_run_has_a_folder_of_its_own_which_a_second_attempt_finds():
    decided_by = {"spec": "{}", "train": ["a", "b"], "transform": "t", "base_model": None}
    folder = checkpoint_folder("gs://bucket/checkpoints", decided_by)
    assert folder.startswith("gs://bucket/checkpoints/")
    assert folder == checkpoint_folder("gs://bucket/checkpoints", dict(reversed(decided_by.items())))
    for changed in ({"spec": "{1}"}, {"train": ["a"]}, {"transform": "u"}, {"base_model": "m"}):
        assert checkpoint_folder("gs://bucket/checkpoints", {**decided_by, **changed}) != folder


def test_a_checkpoint_of_another_ranker_is_refused(pattern, tmp_path):
    with pytest.raises(Killed):
        training(pattern, tmp_path, "first", checkpoint_every=2).run(die_after=2)
    config = TrainingConfig(batch_size=16)
    other = Training(
        pattern, tmp_path / "other", training=config,
        model=ModelConfig(preset="mmoe"), checkpoints=tmp_path / "checkpoints",
    )  # fmt: skip
    with pytest.raises((AssertionError, ValueError, tf.errors.InvalidArgumentError)):
        other.checkpoints.restore()
