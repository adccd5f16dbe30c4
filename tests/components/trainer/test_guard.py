import json
import logging

import numpy as np
import pytest

from components.trainer.config import TrainingConfig
from components.trainer.guard import FiniteGuard, refuse_divergence
from models.presets import ModelConfig
from models.section import UserError
from tests.components.trainer.toy_training import ROWS, Training, write_rows

MODEL = ModelConfig.from_json(
    json.dumps({"trunk": {"name": "shared_bottom", "bottom": {"units": [4]}}, "heads": {"name": "plain", "tower": []}})
)


def train(patterns, folder, **training):
    config = TrainingConfig(batch_size=16, probe_every=5, **training)
    return Training(patterns, folder, training=config, model=MODEL)


def test_an_infinite_number_leaves_out_one_step(tmp_path, caplog):
    patterns = write_rows(tmp_path / "rows", numbers={ROWS: float("inf")})
    with caplog.at_level(logging.WARNING, "absl"):
        training = train(patterns, tmp_path).run()
    assert training.record.steps == 8
    assert training.ranker.left_out.numpy().tolist() == [1, 1]
    assert all(np.isfinite(v.numpy()).all() for v in training.ranker.trainable_variables)
    bad = [
        i
        for i, (features, _) in enumerate(training.examples.epoch(0))
        if not np.isfinite(features["row"].numpy()).all()
    ]
    assert [r.getMessage() for r in caplog.records] == [
        f"The loss or gradient of task {task} is not finite at step {bad[0]}: it is left out."
        for task in ("ctr", "cvr")
    ]


def test_too_many_of_them_end_the_run(tmp_path):
    patterns = write_rows(tmp_path / "rows", numbers=dict.fromkeys(range(0, 120, 2), float("inf")))
    training = train(patterns, tmp_path, max_left_out=2)
    with pytest.raises(
        UserError,
        match=r"training diverged: .* of task ctr was not finite in 3 steps, the last of them step 2, and "
        r"training.max_left_out is 2; a smaller optimizer.dense.learning_rate .* may help",
    ):
        training.run()


def test_weights_that_are_not_finite_end_the_run(pattern, tmp_path):
    training = train(pattern, tmp_path, max_left_out=0)
    training.ranker.heads.trainable_variables[-1].assign([float("nan")])
    with pytest.raises(UserError, match=r"task cvr was not finite in 1 steps, the last of them step 0"):
        training.run()


def test_a_task_is_warned_of_once_and_not_again_after_a_restart(caplog):
    guard = FiniteGuard(("ctr", "cvr"), 5, np.array([2.0, 0.0]))
    with caplog.at_level(logging.WARNING, "absl"):
        guard.check(np.array([2.0, 0.0]), 10)
        guard.check(np.array([3.0, 0.0]), 11)
        assert not caplog.records
        guard.check(np.array([3.0, 1.0]), 12)
        guard.check(np.array([5.0, 2.0]), 13)
    assert [r.getMessage() for r in caplog.records] == [
        "The loss or gradient of task cvr is not finite at step 12: it is left out."
    ]
    with pytest.raises(UserError, match="task ctr was not finite in 6 steps, the last of them step 14"):
        guard.check(np.array([6.0, 2.0]), 14)


def test_losses_on_the_evaluation_days():
    refuse_divergence({"loss_ctr": 0.5})
    with pytest.raises(UserError, match=r"training diverged: loss_cvr is nan on the evaluation days; .*may help"):
        refuse_divergence({"loss_ctr": 0.5, "loss_cvr": float("nan")})
