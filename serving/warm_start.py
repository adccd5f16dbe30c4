"""Warm start: carries weights from a SavedModel in service into a new ranker, by token and not by row number."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from models.features import BucketedFeature, EmbeddedFeature, Feature, NumberFeature
from models.preprocessing import features_to_json, vocabulary_name
from models.ranker import Ranker
from serving.transform_graph import DESCRIPTION

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass
class Carried:
    """What a warm start carried over.

    Attributes:
      rows: per embedding table, rows carried and rows in the new table.
      dense: dense weights carried, and all of them.
      reason: why the dense weights were not carried; '' where they were.
    """

    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    dense: tuple[int, int] = (0, 0)
    reason: str = ""

    def __str__(self) -> str:
        carried, total = (sum(n) for n in zip(*self.rows.values())) if self.rows else (0, 0)
        dense, all_dense = self.dense
        text = f"{carried:,} of {total:,} embedding rows and {dense} of {all_dense} dense weights carried over"
        return f"{text} ({self.reason})" if self.reason else text


def warm_start(
    ranker: Ranker, transform: tft.TFTransformOutput, features: tuple[Feature, ...], model: dict, saved: str | Path
) -> Carried:
    """Copies what fits from an exported model into a built ranker.

    An embedding row moves with its token, wherever the new vocabulary puts it; rows of hashed and
    bucketed features keep their number where the counts are equal. Dense weights are carried only
    where features, chain and model are the same, since otherwise their inputs mean something else.

    Args:
      ranker: the new ranker.
      transform: the new transform.
      features: the new features.
      model: canonical description of the new trunk and heads.
      saved: folder of the SavedModel in service, as `serving.signatures.export` writes it.
    """
    saved = Path(saved)
    description = json.loads((saved / DESCRIPTION).read_text(encoding="utf-8"))
    reader = tf.train.load_checkpoint(str(saved / "variables" / "variables"))
    carried = Carried()
    old_tables: dict[int, np.ndarray] = {}
    new_tables = {int(t.shape[1]): t.numpy() for t in ranker.encoder.tables}
    for feature in features:
        if isinstance(feature, NumberFeature) or feature.table != feature.name:
            continue
        slot = ranker.encoder.slots[feature.name]
        old_slot = description["slots"].get(feature.name)
        if old_slot is None or old_slot[0] != slot.width:
            carried.rows[feature.name] = (0, slot.rows)
            continue
        width, old_offset, old_count = old_slot
        if width not in old_tables:
            old_tables[width] = reader.get_tensor(f"encoder/tables_{width}{_VALUE}")
        old_rows, new_rows = _matching_rows(feature, transform, saved, old_count, slot.rows)
        new_tables[width][slot.offset + new_rows] = old_tables[width][old_offset + old_rows]
        carried.rows[feature.name] = (len(new_rows), slot.rows)
    for table in ranker.encoder.tables:
        table.assign(new_tables[int(table.shape[1])])
    _carry_dense(ranker, features, model, description, reader, carried)
    return carried


def _matching_rows(
    feature: EmbeddedFeature, transform: tft.TFTransformOutput, saved: Path, old_count: int, new_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the same meaning in the old and in the new table of a feature."""
    asset = saved / "assets" / vocabulary_name(feature.name)
    by_number = isinstance(feature, BucketedFeature) or bool(feature.hash_buckets)
    if by_number or not asset.exists():
        # A row that stood for a token then and for a number now, or the reverse, means something else.
        same = np.arange(new_count if by_number and not asset.exists() and old_count == new_count else 0)
        return same, same
    old = {token: i for i, token in enumerate(asset.read_bytes().splitlines())}
    new = transform.vocabulary_by_name(vocabulary_name(feature.name))
    pairs = [(0, 0)] + [(old[token] + 1, i + 1) for i, token in enumerate(new) if token in old]
    if old_count - len(old) == new_count - len(new):
        pairs += [(len(old) + i, len(new) + i) for i in range(1, new_count - len(new))]
    matched = np.array(pairs, dtype=np.int64)
    return matched[:, 0], matched[:, 1]


def _carry_dense(
    ranker: Ranker,
    features: tuple[Feature, ...],
    model: dict,
    description: dict,
    reader: tf.train.CheckpointReader,
    carried: Carried,
) -> None:
    # Keras saves the weights of a layer by their number, and those with a name of their own by it.
    parts = {name: getattr(ranker, name) for name in ("encoder", "interaction", "trunk", "heads")}
    new = {
        f"{name}/variables/{i}{_VALUE}": weight
        for name, part in parts.items()
        if part is not None
        for i, weight in enumerate(part.weights)
        if not any(weight is table for table in ranker.encoder.tables)
    }
    same_features = description["features"] == json.loads(features_to_json(features))
    same_tasks = description["tasks"] == [t.model_dump(mode="json") for t in ranker.tasks]
    if not (same_features and same_tasks and description["model"] == model):
        changed = "features" if not same_features else "tasks" if not same_tasks else "model"
        carried.dense, carried.reason = (0, len(new)), f"the configuration of the {changed} has changed"
        return
    shapes = reader.get_variable_to_shape_map()
    fitting = [key for key, v in new.items() if shapes.get(key) == list(v.shape)]
    for key in fitting:
        new[key].assign(reader.get_tensor(key))
    carried.dense = (len(fitting), len(new))
