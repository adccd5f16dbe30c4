"""The exported SavedModel: raw features in, the funnel's probabilities out, nothing that needs Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras

from models.features import Feature, IdListFeature
from models.preprocessing import Raw, features_to_json, raw_dtype
from models.ranker import Ranker
from models.sides import Sides, SplitKernels
from serving.transform_graph import DESCRIPTION, check_transform, transform_hash
from serving.value import value_formula


class _Untracked:
    """Holds an object that is not to be saved with what it is an attribute of."""

    def __init__(self, held: Ranker):
        self._held = held

    def __call__(self) -> Ranker:
        return self._held


class ServingModel(tf.Module):
    """A ranker behind its transform graph, with the signatures of `export`."""

    def __init__(
        self, ranker: Ranker, transform: tft.TFTransformOutput, features: tuple[Feature, ...], value: str | None = None
    ):
        super().__init__(name="serving_model")
        # Only weights are saved: no optimizers, and no layers, each of whose functions Keras would trace.
        self._ranker = _Untracked(ranker)
        for name in ("encoder", "interaction", "trunk", "heads"):
            if getattr(ranker, name) is not None:
                setattr(self, name, _weights(getattr(ranker, name)))
        self.transform = transform.transform_features_layer()
        self._features = features
        self._labels = tuple(t.label for t in ranker.tasks)
        self._raw_spec = transform.raw_feature_spec()
        self._once = tuple(f.name for f in features if f.side != "item")
        self._each = tuple(f.name for f in features if f.side == "item")
        self._value = value_formula(value, features, ranker.tasks)
        once, each = ranker.encoder.columns
        self.split_kernels = SplitKernels(once, each)
        # Finds the first layers and splits their kernels.
        self._probabilities(Sides(tf.zeros([1, len(once)]), tf.zeros([1, len(each)]), self.split_kernels))

    @property
    def value(self) -> str:
        """The formula that `rank` orders by."""
        return self._value.text

    def _score(self, raw: dict[str, tf.Tensor | tf.SparseTensor]) -> dict[str, tf.Tensor]:
        transformed = self.transform(raw)
        return self._probabilities(self._ranker().encoder({f.name: transformed[f.name] for f in self._features}))

    def _probabilities(self, embedded: tf.Tensor | Sides) -> dict[str, tf.Tensor]:
        ranker = self._ranker()
        if ranker.interaction is not None:
            embedded = ranker.interaction(embedded.whole() if isinstance(embedded, Sides) else embedded)
        shared = ranker.trunk.shared(embedded, training=False)
        representations = ranker.trunk.split(shared, embedded, training=False)
        return ranker.heads.probabilities(ranker.heads(representations, training=False))

    def serving_default(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores serialized tf.Examples, string [batch]."""
        spec = {f.name: self._raw_spec[f.name] for f in self._features}
        return self._score(tf.io.parse_example(examples, spec))

    def predict(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores raw columns by feature name; '' and NaN are missing values."""
        with tf.control_dependencies([_check_rows("predict", columns, (), tuple(f.name for f in self._features))]):
            rows = tf.shape(next(iter(columns.values())))[0]
        return self._score(self._as_parsed(columns, rows))

    def rank(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores the candidates of one request.

        Args:
          columns: by feature name, one row of the user's and the context's features and N rows of the items'; '' and
            NaN are missing values.

        Returns:
          The probabilities, float32 [N], and 'order', int32 [N]: candidates by falling value, equal ones as they came.
        """
        # A server feeds what it gets; with the shape unknown, the check below is not optimised away.
        columns = {n: tf.compat.v1.placeholder_with_default(v, [None] * v.shape.rank) for n, v in columns.items()}
        with tf.control_dependencies([_check_rows("rank", columns, self._once, self._each)]):
            columns = {name: tf.identity(column) for name, column in columns.items()}
        # One call for both sides, since each would run the whole graph: features do not see each other's rows.
        once = self._as_parsed({n: columns[n] for n in self._once}, 1)
        each = self._as_parsed({n: columns[n] for n in self._each}, tf.shape(columns[self._each[0]])[0])
        transformed = dict(self.transform({**once, **each}))
        # What is known to have one row is spread over the candidates where a layer needs it beside theirs.
        transformed |= {n: tf.ensure_shape(transformed[n], [1, *transformed[n].shape[1:]]) for n in self._once}
        embedded = self._ranker().encoder.sides({f.name: transformed[f.name] for f in self._features})
        probabilities = self._probabilities(Sides(*embedded, self.split_kernels))
        numbers = {n: tf.reshape(columns[n], [-1]) for n in self._each if n in self._value.used}
        value = self._value({**probabilities, **numbers})
        worst = tf.fill(tf.shape(value), value.dtype.min)
        value = tf.where(tf.math.is_finite(value), value, worst)
        return {**probabilities, "order": tf.argsort(value, direction="DESCENDING", stable=True)}

    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Transformed features, and labels, of serialized tf.Examples; labels that are not there are 0."""
        names = [*(f.name for f in self._features), *self._labels]
        return self.transform(tf.io.parse_example(examples, {name: self._raw_spec[name] for name in names}))

    def signatures(self) -> dict[str, Any]:
        """Each signature, traced once."""
        serialized = tf.TensorSpec([None], tf.string, name="examples")
        columns = {
            f.name: tf.TensorSpec([None, None] if isinstance(f, IdListFeature) else [None], raw_dtype(f), name=f.name)
            for f in self._features
        }
        # One row of what the candidates share: so a client can tell from the signature which features these are.
        ranked = {
            name: tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=name) if name in self._once else spec
            for name, spec in columns.items()
        }
        ranking = {"rank": _traced(self.rank, **ranked)} if self._each else {}
        return {
            **ranking,
            "serving_default": _traced(self.serving_default, serialized),
            "predict": _traced(self.predict, **columns),
            "transform_features": _traced(self.transform_features, serialized),
        }

    def _as_parsed(self, columns: dict[str, tf.Tensor], rows: int | tf.Tensor) -> dict[str, Raw]:
        """Raw columns of so many rows, which was checked, in the form in which parsed tf.Examples have them."""
        zeros = tf.zeros([rows], tf.int64)
        one_each = tf.stack([tf.range(rows, dtype=tf.int64), zeros], axis=1)
        parsed: dict[str, Raw] = {}
        for name, column in columns.items():
            spec = self._raw_spec[name]
            if isinstance(spec, tf.io.FixedLenFeature):
                parsed[name] = tf.reshape(column, [rows, *spec.shape])
            # With all values: the transform itself drops those that are missing.
            elif column.shape.rank == 1:
                parsed[name] = tf.SparseTensor(one_each, column, [rows, 1])
            else:
                # Not [rows, -1], which cannot be told of no rows.
                table = tf.reshape(column, [rows, tf.size(column) // tf.maximum(rows, 1)])
                everywhere = tf.where(tf.ones_like(table, tf.bool))
                parsed[name] = tf.SparseTensor(everywhere, tf.reshape(table, [-1]), tf.shape(table, tf.int64))
        return parsed


def _weights(layer: keras.layers.Layer) -> tf.train.Checkpoint:
    """The weights of a layer, under the names that Keras would save them by."""
    tables = {f"tables_{table.shape[1]}": table for table in getattr(layer, "tables", ())}
    return tf.train.Checkpoint(variables=layer.weights, **tables)


def _traced(scores: Callable, *columns: tf.TensorSpec, **named: tf.TensorSpec) -> Any:
    # Nothing in them needs conversion, which would take most of the time.
    return tf.function(scores, autograph=False).get_concrete_function(*columns, **named)


def _check_rows(
    signature: str, columns: dict[str, tf.Tensor], once: tuple[str, ...], each: tuple[str, ...]
) -> tf.Operation:
    """Refuses other than one row of some columns, and different numbers of rows of the others."""
    right, told = [], [f"{signature}: expected"]
    if once:
        rows = tf.stack([_rows(columns[name], True) for name in once])
        right.append(tf.reduce_all(rows == 1))
        told += ["1 row of each of", ", ".join(once), "; got", rows, "; and"]
    rows = tf.stack([_rows(columns[name], False) for name in each])
    right.append(tf.reduce_all(rows == rows[0]))
    told += ["as many rows of each of", ", ".join(each), "; got", rows]
    return tf.debugging.Assert(tf.reduce_all(right), told, summarize=-1)


def _rows(column: tf.Tensor, declared: bool) -> tf.Tensor:
    """Number of rows of a raw column; counted, where the signature declares it and its shape would be believed."""
    if not declared or column.shape.rank != 1:
        return tf.shape(column)[0]
    return tf.reduce_sum(tf.unique_with_counts(column).count)


def export(
    ranker: Ranker,
    transform: tft.TFTransformOutput,
    features: tuple[Feature, ...],
    path: str | Path,
    model: dict,
    value: str | None = None,
) -> None:
    """Writes the SavedModel with signatures `serving_default`, `predict`, `rank` and `transform_features`.

    The scoring signatures return float32 [batch] per output of the chain (pctr, pcvr, pctcvr by default) and ask for
    no label.

    Args:
      ranker: the trained ranker.
      transform: the transform that it was trained behind.
      features: its features.
      path: folder to write.
      model: canonical description of trunk and heads, kept beside the weights for warm starts.
      value: what `rank` orders candidates by, as in `serving.value.ValueFormula`.
    """
    serving_model = ServingModel(ranker, transform, features, value)
    tf.saved_model.save(serving_model, str(path), signatures=serving_model.signatures())
    description = {
        "features": json.loads(features_to_json(features)),
        "tasks": [t.model_dump(mode="json") for t in ranker.tasks],
        "model": model,
        "value": serving_model.value,
        "transform": transform_hash(transform),
        "slots": {name: [s.width, s.offset, s.rows] for name, s in ranker.encoder.slots.items()},
    }
    target = Path(path) / DESCRIPTION
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(description, indent=2), encoding="utf-8")
    check_transform(path)
