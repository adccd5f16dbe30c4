"""The training loop, which can go on from any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import tensorflow as tf

from components.trainer.checkpoints import Checkpoints
from components.trainer.config import TrainingConfig
from components.trainer.devices import distributed
from components.trainer.guard import FiniteGuard
from components.trainer.record import TrainingRecord
from models.ranker import Ranker
from models.section import UserError


class Batches(Protocol):
    """Rows to train on."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def epoch(self) -> Callable[..., tf.data.Dataset]:
        """(epoch, skip) -> the batches of an epoch from number `skip` on: ({feature: tensor}, labels float32
        [batch, K]). A share of each, a Share, is asked for as a third where several replicas train."""


def train(
    ranker: Ranker, examples: Batches, record: TrainingRecord, checkpoints: Checkpoints, training: TrainingConfig
) -> None:
    """Trains a compiled ranker from step `record.steps` to the end of the last epoch.

    Not `fit`: it resets the running means of the losses at each call, which a run that is resumed within an epoch
    would show.

    Raises:
      UserError: without a row to train on, or when a task's gradients are not finite too often.
    """
    per_epoch = examples.steps_per_epoch
    if not per_epoch:
        raise UserError("training: expected at least one row in the training days, got none")
    step = ranker.make_train_function()
    guard = FiniteGuard(tuple(t.name for t in ranker.tasks), training.max_left_out, _left_out(ranker))
    clock = time.monotonic()
    while record.steps < training.epochs * per_epoch:
        epoch, skip = divmod(record.steps, per_epoch)
        batches = iter(distributed(ranker.distribute_strategy, partial(examples.epoch, epoch, skip)))
        for _ in range(skip, per_epoch):
            step(batches)
            guard.check(_left_out(ranker), record.steps)
            record.seconds, clock = record.seconds + time.monotonic() - clock, time.monotonic()
            record.after_step()
            checkpoints.after_step()


def _left_out(ranker: Ranker) -> np.ndarray:
    return ranker.left_out.numpy()
