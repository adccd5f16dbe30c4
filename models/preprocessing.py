"""The transform graph: raw columns of an exposure to model inputs, the same in training and serving.

Raw features arrive sparse ([batch, any length], a missing value is an empty row). Every transform is of
one feature alone, so that a server can do the user's side once per request.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf
import tensorflow_transform as tft
from pydantic import TypeAdapter

from models.features import PADDING_ID, BucketedFeature, Feature, IdFeature, IdListFeature, NumberFeature, Vocabulary
from models.tasks import WEIGHT

_FEATURES = TypeAdapter(tuple[Feature, ...])

Raw: TypeAlias = tf.Tensor | tf.SparseTensor


class Column(NamedTuple):
    """The values of a column, row by row.

    Plain operations on these take a third of the graph that ragged tensors take, with their checks and conversions;
    TensorFlow Transform traces the graph some ten times, and servers run it with every request.

    Attributes:
      values: [number of values].
      rows: the row of each value, ascending, int64 [number of values].
      batch: number of rows, int64 [].
    """

    values: tf.Tensor
    rows: tf.Tensor
    batch: tf.Tensor

    def keep(self, mask: tf.Tensor) -> Column:
        """The values where the mask is true."""
        kept = tf.where(mask)[:, 0]
        return Column(tf.gather(self.values, kept), tf.gather(self.rows, kept), self.batch)


def features_to_json(features: tuple[Feature, ...]) -> str:
    return json.dumps(_FEATURES.dump_python(features, mode="json"), separators=(",", ":"))


def features_from_json(text: str) -> tuple[Feature, ...]:
    return _FEATURES.validate_json(text, strict=True)


def vocabulary_name(table: str) -> str:
    """Name of the vocabulary file of an embedding table."""
    return f"vocabulary_{table}"


def raw_dtype(feature: Feature) -> tf.DType:
    """Type of a feature's raw column: text for ids, float32 for numbers."""
    return tf.string if isinstance(feature, (IdFeature, IdListFeature)) else tf.float32


def preprocessing_fn(inputs: dict[str, Raw], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Transforms raw columns.

    Args:
      inputs: raw columns by feature name, the labels, and the weights where examples were sampled.
      custom_config: `features` (JSON list of the features), `labels` (names of the label columns, in the order of
        the chain) and `weighted` (whether there are weights).

    Returns:
      int64 [batch] for id and bucketed features: 0 for a missing value, then 1 + the token's rank in the
      vocabulary, then out-of-vocabulary buckets; int64 [batch, max_length] for id lists, padded at the end with 0;
      float32 [batch] for numbers, where a missing value or NaN is the mean (0 if not scaled); int64 [batch] for labels;
      float32 [batch, K] for weights, as `_weights` says.
    """
    features = features_from_json(custom_config["features"])
    outputs: dict[str, tf.Tensor] = {}
    vocabularies: dict[str, tf.Tensor] = {}
    owners = {f.name: f for f in features if isinstance(f, (IdFeature, IdListFeature))}
    # Owners of a table first: those that share it need its vocabulary.
    for feature in sorted(features, key=lambda f: getattr(f, "shares", None) is not None):
        raw = _column(inputs[feature.name])
        if isinstance(feature, (IdFeature, IdListFeature)):
            owner = owners[feature.table]
            outputs[feature.name] = _ids(feature, owner, raw, vocabularies)
        elif isinstance(feature, BucketedFeature):
            outputs[feature.name] = _buckets(feature, raw)
        else:
            outputs[feature.name] = _number(feature, raw)
    for label in custom_config["labels"]:
        outputs[label] = _first(_column(inputs[label]), 0)
    if custom_config.get("weighted"):
        weight = _first(_column(inputs[WEIGHT]), 1)
        outputs[WEIGHT] = _weights(weight, [outputs[label] for label in custom_config["labels"]])
    return outputs


def _weights(weight: tf.Tensor, labels: list[tf.Tensor]) -> tf.Tensor:
    """Per step of the chain, the weight of each row over the mean weight of the rows that reached the step.

    A weighted loss is divided by its rows, and not by their weights, which would favour the rows of batches with small
    weights. With weights of mean 1 over the data it is as large as without sampling, in each task.
    """
    reached = [tf.ones_like(labels[0]), *labels[:-1]]
    means = [
        tft.mean(tf.boolean_mask(weight, mask > 0), name=f"mean_{WEIGHT}_{step}") for step, mask in enumerate(reached)
    ]
    return tf.stack([tf.math.divide_no_nan(weight, mean) for mean in means], axis=1)


def table_rows(features: tuple[Feature, ...], transform: tft.TFTransformOutput) -> dict[str, int]:
    """Rows of each embedding table: padding, known tokens or buckets, out-of-vocabulary."""
    rows = {}
    for feature in features:
        if isinstance(feature, NumberFeature) or feature.table != feature.name:
            continue
        if isinstance(feature, BucketedFeature):
            rows[feature.name] = 1 + feature.buckets
        elif feature.hash_buckets:
            rows[feature.name] = 1 + feature.hash_buckets
        else:
            vocabulary = feature.vocabulary or Vocabulary()
            known = transform.vocabulary_size_by_name(vocabulary_name(feature.name))
            rows[feature.name] = 1 + known + vocabulary.oov_buckets
    return rows


def _ids(
    feature: IdFeature | IdListFeature,
    owner: IdFeature | IdListFeature,
    raw: Column,
    vocabularies: dict[str, tf.Tensor],
) -> tf.Tensor:
    there = tf.strings.length(raw.values) > 0
    if owner.hash_buckets:
        ids = tf.strings.to_hash_bucket_fast(raw.values, owner.hash_buckets)
    else:
        vocabulary = owner.vocabulary or Vocabulary()
        if owner.name not in vocabularies:
            vocabularies[owner.name] = tft.vocabulary(
                raw.keep(there).values,
                top_k=vocabulary.max_size,
                frequency_threshold=vocabulary.min_count if vocabulary.min_count > 1 else None,
                vocab_filename=vocabulary_name(owner.name),
            )
        ids = tft.apply_vocabulary(raw.values, vocabularies[owner.name], num_oov_buckets=vocabulary.oov_buckets)
    found = raw._replace(values=ids + 1)
    if isinstance(feature, IdListFeature):
        return _last(found.keep(there), feature.max_length, PADDING_ID)
    return _first(found, PADDING_ID, there)


def _buckets(feature: BucketedFeature, raw: Column) -> tf.Tensor:
    there = tf.math.is_finite(raw.values)
    if feature.boundaries is not None:
        boundaries = tf.constant([feature.boundaries], tf.float32)
    else:
        kept = raw.keep(there).values
        boundaries = tft.quantiles(kept, feature.quantiles, epsilon=0.001, name=f"quantiles_{feature.name}")
    buckets = tft.apply_buckets(tf.where(there, raw.values, 0.0), boundaries)
    return _first(raw._replace(values=buckets + 1), PADDING_ID, there)


def _number(feature: NumberFeature, raw: Column) -> tf.Tensor:
    there = tf.math.is_finite(raw.values)
    values = raw.values
    if feature.log:
        values = tf.math.log1p(tf.maximum(values, 0.0))
    kept = raw._replace(values=values).keep(there).values
    if feature.scaling == "z_score":
        mean, variance = tft.mean(kept, name=f"mean_{feature.name}"), tft.var(kept, name=f"var_{feature.name}")
        values = tf.math.divide_no_nan(values - mean, tf.sqrt(variance))
    elif feature.scaling == "min_max":
        low, high = tft.min(kept, name=f"min_{feature.name}"), tft.max(kept, name=f"max_{feature.name}")
        values = tf.clip_by_value(tf.math.divide_no_nan(values - low, high - low), 0.0, 1.0)
    return _first(raw._replace(values=values), 0, there)


def _column(raw: Raw) -> Column:
    if isinstance(raw, tf.SparseTensor):
        return Column(raw.values, raw.indices[:, 0], raw.dense_shape[0])
    # Every value of a dense tensor is there, zeros as well.
    batch = tf.shape(raw, tf.int64)[0]
    size = tf.size(raw, tf.int64)
    return Column(tf.reshape(raw, [-1]), tf.range(size) // tf.maximum(size // tf.maximum(batch, 1), 1), batch)


def _first(column: Column, default: float, there: tf.Tensor | None = None) -> tf.Tensor:
    """The first value of each row, of those for which `there` holds: [batch]."""
    size = tf.size(column.rows, tf.int64)
    places = tf.range(size) if there is None else tf.where(there, tf.range(size), size)
    # A row without any value has the largest integer.
    first = tf.minimum(tf.math.unsorted_segment_min(places, column.rows, column.batch), size)
    return tf.gather(_with_default(column.values, default), first)


def _last(column: Column, length: int, default: float) -> tf.Tensor:
    """The last `length` values of each row, then the default: [batch, length]."""
    splits = tf.searchsorted(column.rows, tf.range(column.batch + 1), out_type=tf.int64)
    places = tf.maximum(splits[:-1], splits[1:] - length)[:, None] + tf.range(length, dtype=tf.int64)
    # What lies beyond the row belongs to the next one.
    places = tf.where(places < splits[1:, None], places, splits[-1])
    return tf.gather(_with_default(column.values, default), places)


def _with_default(values: tf.Tensor, default: float) -> tf.Tensor:
    return tf.concat([values, tf.cast([default], values.dtype)], axis=0)
