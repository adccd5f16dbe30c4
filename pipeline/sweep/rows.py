"""The rows of a sweep, as arrays that all trainings map into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

Columns = dict[str, np.ndarray]

SPLITS = ("train", "eval")
_BATCH = 8192


@dataclass(frozen=True)
class Rows:
    """What `pipeline.sweep.transform.make_rows` left in a folder.

    Attributes:
      tables: rows of each embedding table.
      train, evaluation: features as the ranker takes them (ids as int32), labels (int8), `@user` (number of the user,
        the same in both splits) and `@day` (days since 1970, in the logs' time zone).
      fingerprint: changes with the rows.
    """

    tables: dict[str, int]
    train: Columns
    evaluation: Columns
    fingerprint: str

    @classmethod
    def read(cls, folder: Path) -> Rows:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        train, evaluation = (
            {name: np.load(folder / split / f"{i}.npy", mmap_mode="r") for i, name in enumerate(about["columns"])}
            for split in SPLITS
        )
        return cls(about["tables"], train, evaluation, about["fingerprint"])

    def last_training_day(self) -> np.ndarray:
        """Which of the training rows are of the last training day, bool [rows]."""
        days = self.train["@day"]
        return days == days.max()

    def days(self) -> dict[str, tuple[date, date]]:
        """First and last day of each split."""
        epoch = np.datetime64("1970-01-01")
        ends = {s: (c["@day"].min(), c["@day"].max()) for s, c in zip(SPLITS, (self.train, self.evaluation))}
        return {s: tuple((epoch + np.timedelta64(int(d), "D")).item() for d in e) for s, e in ends.items()}


class Batches:
    """Rows in memory as batches ({feature: tensor}, labels float32 [batch, K]), for the trainer's loop.

    Args:
      columns: the rows.
      features: names of the features.
      labels: names of the labels, in the order of the chain.
      chosen: which rows, bool [rows]; all by default.
      batch_size: rows of a batch.
      seed: with the epoch, decides the order.
    """

    def __init__(
        self,
        columns: Columns,
        features: list[str],
        labels: list[str],
        *,
        batch_size: int,
        seed: int,
        chosen: np.ndarray | None = None,
    ):
        self._places = np.arange(len(columns["@user"])) if chosen is None else np.flatnonzero(chosen)
        self._inputs = {name: tf.constant(columns[name]) for name in features}
        self._targets = tf.constant(np.stack([columns[name] for name in labels], axis=1))
        self._batch_size = batch_size
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._places) // self._batch_size)

    def epoch(self, epoch: int, skip: int = 0) -> tf.data.Dataset:
        """The batches of an epoch from number `skip` on, in an order that seed and epoch decide."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._places)
        return self._batches(order[skip * self._batch_size :], self._batch_size)

    def in_order(self, batch_size: int = _BATCH) -> Iterator[dict[str, tf.Tensor]]:
        """The features of all rows, as they are."""
        for features, _ in self._batches(self._places, batch_size):
            yield features

    def _batches(self, places: np.ndarray, size: int) -> tf.data.Dataset:
        def gather(some: tf.Tensor) -> Any:
            found = {name: tf.gather(values, some) for name, values in self._inputs.items()}
            wide = {n: tf.cast(v, tf.int64) if v.dtype == tf.int32 else v for n, v in found.items()}
            return wide, tf.cast(tf.gather(self._targets, some), tf.float32)

        options = tf.data.Options()
        options.autotune.enabled = False  # it can stall for seconds at the end of a pass
        batches = tf.data.Dataset.from_tensor_slices(places).batch(size)
        return batches.map(gather, num_parallel_calls=1, deterministic=True).prefetch(2).with_options(options)
