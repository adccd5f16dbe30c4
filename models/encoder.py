"""From transformed features to one embedded input, with look-ups that keep gradients row-sparse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

from models.features import PADDING_ID, EmbeddedFeature, Feature, IdListFeature, NumberFeature, Side
from models.histories import LstmAttention, TargetAttention

# Small beside what Adagrad's first steps add, so that an id that was seen once or twice is little noise.
_INITIAL_RANGE = 0.005


@dataclass(frozen=True)
class Slot:
    """Where a feature's embedding rows lie: rows [offset, offset + rows) of the table of that width."""

    width: int
    offset: int
    rows: int


class Lookup(NamedTuple):
    """The ids of one batch in one merged table, each distinct id once.

    Attributes:
      unique: [U] int64 rows of the merged table.
      positions: [N] int32, where in `unique` each id of the batch stands: row by row, and in a row feature by feature.
    """

    unique: tf.Tensor
    positions: tf.Tensor


def embedding_slots(features: tuple[Feature, ...], table_rows: dict[str, int]) -> dict[str, Slot]:
    """Places every table in the merged table of its width.

    Args:
      features: the features, in the order of the configuration.
      table_rows: number of rows per table name, padding and out-of-vocabulary rows included.

    Returns:
      A slot per table name.
    """
    slots: dict[str, Slot] = {}
    used: dict[int, int] = {}
    for feature in features:
        if isinstance(feature, NumberFeature) or feature.table in slots:
            continue
        offset = used.get(feature.dimension, 0)
        slots[feature.table] = Slot(feature.dimension, offset, table_rows[feature.table])
        used[feature.dimension] = offset + table_rows[feature.table]
    return slots


class _Part(NamedTuple):
    """Features that are embedded together: those with a table by its width, and the numbers after them."""

    by_width: tuple[tuple[int, tuple[EmbeddedFeature, ...]], ...]
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, features: Iterable[Feature]) -> _Part:
        features = tuple(features)
        embedded = [f for f in features if not isinstance(f, NumberFeature)]
        widths = dict.fromkeys(f.dimension for f in embedded)
        by_width = tuple((w, tuple(f for f in embedded if f.dimension == w)) for w in widths)
        return cls(by_width, tuple(f.name for f in features if isinstance(f, NumberFeature)))

    @property
    def names(self) -> list[str]:
        """The features in the order of their columns."""
        return [f.name for _, members in self.by_width for f in members] + list(self.numbers)


class Encoder(keras.layers.Layer):
    """Embeds features into one input [batch, width].

    All tables of one width are rows of one variable: a batch makes its ids distinct once, gathers once
    and updates once, however many features there are. Tasks differentiate with respect to the
    gathered rows [U, width], so that nothing of a table's size is made in a training step.

    Transformed features are int64 [batch] for id and bucketed features, int64 [batch, max_length]
    for id lists (padded with 0) and float32 [batch] for numbers.
    """

    def __init__(self, features: tuple[Feature, ...], table_rows: dict[str, int], *, seed: int, **kwargs):
        super().__init__(name="encoder", **kwargs)
        self.features = features
        self.slots = embedding_slots(features, table_rows)
        # Tuples of pairs and not dicts, because Keras cannot save a dict with numbers for keys.
        self._all = _Part.of(features)
        self._by_width, self._numbers = self._all
        plain = [f for f in features if not (isinstance(f, IdListFeature) and f.attends)]
        self._once = _Part.of(f for f in plain if f.side != "item")
        self._each = _Part.of(f for f in plain if f.side == "item")
        self.tables: list[tf.Variable] = []
        for i, (width, _) in enumerate(self._by_width):
            rows = sum(s.rows for s in self.slots.values() if s.width == width)
            initializer = keras.initializers.RandomUniform(-_INITIAL_RANGE, _INITIAL_RANGE, seed=seed + i)
            self.tables.append(self.add_weight(f"tables_{width}", [rows, width], initializer=initializer))
        self.histories: dict[str, keras.layers.Layer] = {}
        for i, feature in enumerate(f for f in features if isinstance(f, IdListFeature) and f.attends):
            layer = TargetAttention if feature.pooling == "attention" else LstmAttention
            self.histories[feature.name] = layer(
                feature.dimension, feature.attention_units, seed=seed + 1_000 + 100 * i, name=f"history_{i}"
            )

    @property
    def dense_width(self) -> int:
        """Width of the embedded input."""
        return len(self._numbers) + sum(w * len(fs) for w, fs in self._by_width)

    @property
    def layout(self) -> tuple[tuple[int, int], ...]:
        """Offset and width of each embedded feature within the embedded input, in its order."""
        widths = [width for width, members in self._by_width for _ in members]
        return tuple((sum(widths[:i]), width) for i, width in enumerate(widths))

    @property
    def dense_variables(self) -> list[tf.Variable]:
        """The trainable variables that are not tables: those of the histories' attentions."""
        return [v for layer in self.histories.values() for v in layer.trainable_variables]

    def lookup(self, features: dict[str, tf.Tensor]) -> list[Lookup]:
        """The distinct ids of a batch, one `Lookup` per merged table."""
        lookups = []
        for _, members in self._by_width:
            # Made distinct feature by feature: ids of one table lie near each other, and in the processor's cache.
            ids = tf.transpose(self._ids(features, members))
            unique, positions = tf.unique(tf.reshape(ids, [-1]))
            by_row = tf.transpose(tf.reshape(positions, tf.shape(ids)))
            lookups.append(Lookup(unique, tf.reshape(by_row, [-1])))
        return lookups

    def rows(self, lookups: list[Lookup]) -> list[tf.Tensor]:
        """The embedding rows [U, width] of each look-up: what gradients are taken with respect to."""
        return [tf.gather(table, lookup.unique) for table, lookup in zip(self.tables, lookups)]

    def embed(self, features: dict[str, tf.Tensor], gathered: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """The embedded input [batch, width].

        Args:
          features: the transformed features.
          gathered: per merged table, the embedding [N, width] of every id of the batch, in the order of `positions`.
          training: whether dropout is on.
        """
        return self._embed(self._all, features, gathered)

    @property
    def columns(self) -> tuple[list[int], list[int]]:
        """Columns of the embedded input in the order of `sides`: those shared by a request's candidates, the others."""
        widths = {f.name: width for width, members in self._by_width for f in members}
        spans, start = {}, 0
        for name in self._all.names:
            spans[name] = range(start, start + widths.get(name, 1))
            start += len(spans[name])
        once, each = self._once.names + self._attended(False), self._each.names + self._attended(True)
        return [c for name in once for c in spans[name]], [c for name in each for c in spans[name]]

    def sides(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """The embedded input of one request: [1, the columns of user and context] and [N, the columns of the items].

        What attends to an item is a column of the items.

        Args:
          features: transformed features, one row of those of user and context, N rows of those of the items.
        """
        pooled = {}
        for feature in self.features:
            if isinstance(feature, IdListFeature) and feature.attends:
                ids = features[feature.name]
                query = next(f for f in self.features if f.name == feature.query)
                assert not isinstance(query, NumberFeature)
                candidate = self._vectors(query, features[query.name])
                pooled[feature.name] = self._pool(feature, ids, self._vectors(feature, ids), candidate)
        parts = []
        for part, attended in ((self._once, self._attended(False)), (self._each, self._attended(True))):
            gathered = []
            for (_, members), table in zip(part.by_width, self._tables(part)):
                gathered.append(tf.gather(table, tf.reshape(self._ids(features, members), [-1])))
            columns = [self._embed(part, features, gathered)] if part.names else []
            columns += [pooled[name] for name in attended]
            parts.append(tf.concat(columns, axis=1) if columns else tf.zeros([1, 0]))
        return parts[0], parts[1]

    def _embed(self, part: _Part, features: dict[str, tf.Tensor], gathered: list[tf.Tensor]) -> tf.Tensor:
        pieces: list[tuple[tuple[Feature, ...], tf.Tensor]] = []
        for (width, members), values in zip(part.by_width, gathered):
            runs = self._runs(members)
            joined = tf.reshape(values, [-1, width * sum(_lengths(members))])
            pieces += zip(runs, tf.split(joined, [width * sum(_lengths(run)) for run in runs], axis=1))
        alone = {run[0].name: values for run, values in pieces if len(run) == 1}
        parts: list[tf.Tensor] = []
        for (feature, *_), values in pieces:
            if isinstance(feature, IdListFeature):
                values = tf.reshape(values, [-1, feature.max_length, feature.dimension])
                candidate = alone[feature.query] if feature.query is not None else None
                values = self._pool(feature, features[feature.name], values, candidate)
            parts.append(values)
        if part.numbers:
            parts.append(tf.stack([features[name] for name in part.numbers], axis=1))
        return tf.concat(parts, axis=1)

    def _attended(self, of_items: bool) -> list[str]:
        """The histories that are weighed by a candidate, of a request's items or of its context."""
        attending = (f for f in self.features if isinstance(f, IdListFeature) and f.attends)
        return [f.name for f in attending if (self._side(f) == "item") == of_items]

    def _side(self, feature: Feature) -> Side:
        sides = {f.name: f.side for f in self.features}
        query = feature.query if isinstance(feature, IdListFeature) else None
        return "item" if query is not None and sides[query] == "item" else feature.side

    def _tables(self, part: _Part) -> list[tf.Variable]:
        by_width = {width: table for (width, _), table in zip(self._by_width, self.tables)}
        return [by_width[width] for width, _ in part.by_width]

    def _vectors(self, feature: EmbeddedFeature, ids: tf.Tensor) -> tf.Tensor:
        """The embeddings [*ids.shape, width] of one feature."""
        (table,) = self._tables(_Part.of([feature]))
        return tf.gather(table, ids + self.slots[feature.table].offset)

    def _ids(self, features: dict[str, tf.Tensor], members: tuple[EmbeddedFeature, ...]) -> tf.Tensor:
        """Rows of the merged table, [batch, ids of a row]."""
        columns = []
        for is_list, some in groupby(members, lambda f: isinstance(f, IdListFeature)):
            found = [features[f.name] for f in some]
            columns += found if is_list else [tf.stack(found, axis=1)]
        offsets = [self.slots[f.table].offset for f, n in zip(members, _lengths(members)) for _ in range(n)]
        return tf.concat(columns, axis=1) + offsets

    def _runs(self, members: tuple[Feature, ...]) -> list[tuple[Feature, ...]]:
        """Neighbours whose embeddings stay side by side; lists, and what they attend by, are on their own."""
        queries = {f.query for f in self.features if isinstance(f, IdListFeature)}
        runs = groupby(members, lambda f: f.name if isinstance(f, IdListFeature) or f.name in queries else "")
        return [tuple(run) for _, run in runs]

    def _pool(
        self, feature: IdListFeature, ids: tf.Tensor, values: tf.Tensor, candidate: tf.Tensor | None
    ) -> tf.Tensor:
        present = ids != PADDING_ID
        if feature.attends:
            pooled = self.histories[feature.name]((values, candidate), present)
            return tf.cast(pooled, values.dtype)
        mask = tf.cast(present, values.dtype)
        summed = tf.einsum("bl,bld->bd", mask, values)
        if feature.pooling == "sum":
            return summed
        return summed / tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        lookups = self.lookup(features)
        gathered = [tf.gather(rows, lookup.positions) for rows, lookup in zip(self.rows(lookups), lookups)]
        return self.embed(features, gathered, training)


def _lengths(features: tuple[Feature, ...]) -> list[int]:
    """How many ids a row has of each feature."""
    return [f.max_length if isinstance(f, IdListFeature) else 1 for f in features]
