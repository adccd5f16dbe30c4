"""The exported SavedModel: raw features in, the funnel's probabilities out, nothing that needs Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from models.features import Feature, IdListFeature
from models.preprocessing import features_to_json, raw_dtype
from models.ranker import Ranker

DESCRIPTION = Path("assets.extra") / "seesaw" / "model.json"
"""What a SavedModel says of itself, inside its folder: features, chain, model and embedding layout."""


class ServingModel(tf.Module):
    """A ranker behind its transform graph, with the signatures of `export`."""

    def __init__(self, ranker: Ranker, transform: tft.TFTransformOutput, features: tuple[Feature, ...]):
        super().__init__(name="serving_model")
        # Not the ranker itself: it would bring the optimizers' state into the SavedModel.
        self.encoder = ranker.encoder
        self.interaction = ranker.interaction
        self.trunk = ranker.trunk
        self.heads = ranker.heads
        self.transform = transform.transform_features_layer()
        self._features = features
        self._labels = tuple(t.label for t in ranker.tasks)
        self._raw_spec = transform.raw_feature_spec()

    def _score(self, raw: dict[str, tf.Tensor | tf.SparseTensor]) -> dict[str, tf.Tensor]:
        transformed = self.transform(raw)
        inputs = {f.name: transformed[f.name] for f in self._features}
        embedded = self.encoder(inputs)
        if self.interaction is not None:
            embedded = self.interaction(embedded)
        representations = self.trunk(embedded, training=False)
        return self.heads.probabilities(self.heads(representations, training=False))

    @tf.function
    def serving_default(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores serialized tf.Examples, string [batch]."""
        spec = {f.name: self._raw_spec[f.name] for f in self._features}
        return self._score(tf.io.parse_example(examples, spec))

    @tf.function
    def predict(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores raw columns by feature name; '' and NaN are missing values."""
        return self._score({name: self._as_parsed(name, column) for name, column in columns.items()})

    @tf.function
    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Transformed features, and labels, of serialized tf.Examples; labels that are not there are 0."""
        names = [*(f.name for f in self._features), *self._labels]
        return self.transform(tf.io.parse_example(examples, {name: self._raw_spec[name] for name in names}))

    def signatures(self) -> dict[str, Any]:
        serialized = tf.TensorSpec([None], tf.string, name="examples")
        columns = {
            f.name: tf.TensorSpec([None, None] if isinstance(f, IdListFeature) else [None], raw_dtype(f), name=f.name)
            for f in self._features
        }
        return {
            "serving_default": self.serving_default.get_concrete_function(serialized),
            "predict": self.predict.get_concrete_function(**columns),
            "transform_features": self.transform_features.get_concrete_function(serialized),
        }

    def _as_parsed(self, name: str, column: tf.Tensor) -> tf.Tensor | tf.SparseTensor:
        """A raw column in the form in which a parsed tf.Example has it."""
        spec = self._raw_spec[name]
        if isinstance(spec, tf.io.FixedLenFeature):
            return tf.reshape(column, [-1, *spec.shape])
        rows = tf.reshape(column, [tf.shape(column)[0], -1])
        if column.dtype == tf.string:
            present = tf.strings.length(rows) > 0
        else:
            present = tf.logical_not(tf.math.is_nan(rows))
        ragged = tf.ragged.boolean_mask(rows, present)
        return ragged.to_sparse()


def export(
    ranker: Ranker, transform: tft.TFTransformOutput, features: tuple[Feature, ...], path: str | Path, model: dict
) -> None:
    """Writes the SavedModel with signatures `serving_default`, `predict` and `transform_features`.

    The scoring signatures return float32 [batch] per output of the chain (pctr, pcvr, pctcvr by default) and ask for
    no label.

    Args:
      ranker: the trained ranker.
      transform: the transform that it was trained behind.
      features: its features.
      path: folder to write.
      model: canonical description of trunk and heads, kept beside the weights for warm starts.
    """
    serving_model = ServingModel(ranker, transform, features)
    tf.saved_model.save(serving_model, str(path), signatures=serving_model.signatures())
    description = {
        "features": json.loads(features_to_json(features)),
        "tasks": [t.model_dump(mode="json") for t in ranker.tasks],
        "model": model,
        "slots": {name: [s.width, s.offset, s.rows] for name, s in ranker.encoder.slots.items()},
    }
    target = Path(path) / DESCRIPTION
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(description, indent=2), encoding="utf-8")
