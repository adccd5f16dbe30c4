"""Checkpoints of a training run, from which a run that was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import os

import tensorflow as tf
from absl import logging

from components.trainer.record import TrainingRecord
from models.ranker import Ranker


class Checkpoints:
    """Keeps the last state of a training run in a folder: everything that the next step reads.

    That is the ranker (weights, balancer state, optimizers with their slots, positions of dropout), the running
    means of the losses, and the record with the number of steps done, which is the position in the input.

    Args:
      folder: of this run alone (see `checkpoint_folder`); may be on any file system that TensorFlow knows.
      ranker: the ranker.
      record: its record.
      every: steps between checkpoints; 0 for none.
      write_to: where this process writes them, if it is not the one whose checkpoints are read: all workers that
        train together have to write at the same time, for they sum up over the replicas.
    """

    def __init__(
        self, folder: str, ranker: Ranker, record: TrainingRecord, *, every: int, write_to: str | None = None
    ):
        self._folder = folder
        self._write_to = write_to or folder
        self._record = record
        self._every = every
        self.checkpoint = tf.train.Checkpoint(ranker=ranker, record=_RecordState(record))
        self._manager = tf.train.CheckpointManager(self.checkpoint, self._write_to, max_to_keep=1) if every else None

    def restore(self) -> bool:
        """Goes back to the last checkpoint, if there is one."""
        latest = tf.train.latest_checkpoint(self._folder) if self._every else None
        if not latest:
            return False
        # The slots of the optimizers are made at the first step, and take their values then.
        self.checkpoint.restore(latest).assert_existing_objects_matched()
        logging.info("Training goes on from step %d, from %s.", self._record.steps, latest)
        return True

    def after_step(self) -> None:
        """Writes a checkpoint where one is due."""
        if self._manager is not None and self._record.steps % self._every == 0:
            self._manager.save(checkpoint_number=self._record.steps)

    def delete(self) -> None:
        """Removes the folder, when nothing will go on from here."""
        if tf.io.gfile.exists(self._write_to):
            tf.io.gfile.rmtree(self._write_to)


def checkpoint_folder(root: str, decided_by: dict) -> str:
    """Folder of the training run that is decided by some JSON: the same for a second attempt, and for no other run."""
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return os.path.join(root, digest[:32])


class _RecordState(tf.train.experimental.PythonState):
    def __init__(self, record: TrainingRecord):
        self._of = record

    def serialize(self) -> bytes:
        return json.dumps(self._of.state()).encode()

    def deserialize(self, string_value: bytes) -> None:
        self._of.restore(json.loads(string_value))
