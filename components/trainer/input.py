"""The trainer's input: transformed tf.Examples in batches, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components.trainer.config import TrainingConfig
from components.trainer.devices import Share
from models.example_files import compression_of
from models.features import Feature
from models.tasks import WEIGHT

_READ_AT_ONCE = 10_000
_PIECE = 256


class Examples:
    """The rows of some files, as batches ({feature: tensor}, labels float32 [batch, K]).

    With weights there is a third part, float32 [batch, K].

    Args:
      patterns: the files.
      transform: what wrote them.
      features: which columns to read.
      labels: columns of the labels, in the order of the chain.
      training: batch size, seed, shuffling and caching.
      weighted: give weights too.
    """

    def __init__(
        self,
        patterns: list[str],
        transform: tft.TFTransformOutput,
        features: tuple[Feature, ...],
        labels: list[str],
        training: TrainingConfig,
        *,
        weighted: bool = False,
    ):
        spec = transform.transformed_feature_spec()
        weights = [WEIGHT] if weighted else []
        self._spec = {name: spec[name] for name in (*(f.name for f in features), *labels, *weights)}
        self._labels = labels
        self._training = training
        self._files = _files(patterns)

    @cached_property
    def count(self) -> int:
        """Number of rows."""
        if self._training.cache:
            return int(tf.size(self._cached))
        return _count(self._files)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.count // self._training.batch_size)

    def in_order(self, share: Share = Share()) -> tf.data.Dataset:
        """One pass over the files, as they are."""
        return self._parsed(self._cut(self._read(self._files).rebatch(self._training.batch_size), share))

    def epoch(self, epoch: int, skip: int = 0, share: Share = Share()) -> tf.data.Dataset:
        """The batches of an epoch from number `skip` on, or a share of each.

        The order of files and rows is new at every epoch, and a function of (`training.seed`, `epoch`) alone:
        training that is resumed sees the rows that it would have seen.
        """
        order = np.random.default_rng([self._training.seed, epoch])
        size = self._training.batch_size
        if self._training.cache:
            cached = self._cached
            places = tf.data.Dataset.from_tensor_slices(order.permutation(self.count)[skip * size :]).batch(size)
            return self._parsed(self._cut(places, share), lambda some: tf.gather(cached, some))
        rows = self._read([str(name) for name in order.permutation(self._files)])
        seed = int(order.integers(2**31))

        def shuffled(number: tf.Tensor, together: tf.Tensor) -> tf.Tensor:
            return tf.random.experimental.stateless_shuffle(together, tf.stack([tf.constant(seed, tf.int64), number]))

        # Many rows at a time: a buffer that gives one row after another costs more than all the parsing.
        rows = rows.rebatch(self._training.shuffle_rows).enumerate().map(shuffled).prefetch(1)
        # Rows are skipped before they are parsed, which is what costs.
        return self._parsed(self._cut(rows.rebatch(size).skip(skip), share))

    @cached_property
    def _cached(self) -> tf.Tensor:
        """Every row as it lies in the files, string [rows]."""
        with tf.device("CPU:0"):
            found = [*self._read(self._files)]
            return tf.concat(found, axis=0) if found else tf.zeros([0], tf.string)

    def _read(self, files: list[str]) -> tf.data.Dataset:
        """The rows of the files in pieces, string [rows]; pieces of some files take turns."""
        return tf.data.Dataset.from_tensor_slices(files).interleave(
            lambda file: tf.data.TFRecordDataset(file, compression_of(self._files)).batch(_PIECE),
            cycle_length=4,
            num_parallel_calls=2,
            deterministic=True,
        )

    def _cut(self, batches: tf.data.Dataset, share: Share) -> tf.data.Dataset:
        """A share of each batch, before it is parsed."""
        if share.pieces == 1:
            return batches
        size = -(-self._training.batch_size // share.pieces)

        def pieces(rows: tf.Tensor) -> tf.data.Dataset:
            numbers = tf.data.Dataset.range(share.first, share.last)
            return numbers.map(lambda i: rows[i * size : (i + 1) * size])

        return batches.flat_map(pieces)

    def _parsed(self, batches: tf.data.Dataset, read: Callable = tf.identity) -> tf.data.Dataset:
        def parse(some: tf.Tensor) -> tuple:
            parsed = tf.io.parse_example(read(some), self._spec)
            targets = tf.stack([tf.cast(parsed.pop(label), tf.float32) for label in self._labels], axis=1)
            weights = parsed.pop(WEIGHT, None)
            return (parsed, targets) if weights is None else (parsed, targets, weights)

        options = tf.data.Options()
        # The autotuner can stall for seconds at the end of a pass; parallelism is explicit instead.
        options.autotune.enabled = False
        return batches.map(parse, num_parallel_calls=2, deterministic=True).prefetch(4).with_options(options)


def read_examples(
    patterns: list[str],
    transform: tft.TFTransformOutput,
    features: tuple[Feature, ...],
    labels: list[str],
    training: TrainingConfig,
    *,
    shuffle: bool,
) -> tf.data.Dataset:
    """One pass over the files: as they are, or in the order of the first epoch."""
    examples = Examples(patterns, transform, features, labels, training)
    return examples.epoch(0) if shuffle else examples.in_order()


def count_examples(patterns: list[str]) -> int:
    """Number of examples in the files."""
    return _count(_files(patterns))


def _count(files: list[str]) -> int:
    rows = tf.data.TFRecordDataset(files, compression_of(files), num_parallel_reads=2).batch(_READ_AT_ONCE)
    return sum(int(tf.shape(batch)[0]) for batch in rows)


def _files(patterns: list[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
