"""A ranker on the features of `tests.transforms`, exported, and rows in the forms in which its signatures take them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from models.balancing import Static
from models.optimizers import OptimizerConfig
from models.preprocessing import table_rows
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from tests.transforms import FEATURES


def make_ranker(transform, seed=0, features=FEATURES, model=None, **options) -> Ranker:
    rows = table_rows(features, transform)
    model = model or ModelConfig(preset="shared_bottom")
    return Ranker(features, rows, DEFAULT_TASKS, model, Static(name="static"), OptimizerConfig(), seed=seed, **options)


def as_columns(rows: list[dict[str, list]], features=FEATURES) -> dict[str, tf.Tensor]:
    """Rows as signature `predict` takes them."""
    columns = {}
    for f in features:
        if f.kind == "id_list":
            width = max(1, *(len(r[f.name]) for r in rows)) if len(rows) > 1 else max(1, len(rows[0][f.name]))
            columns[f.name] = tf.constant([r[f.name] + [b""] * (width - len(r[f.name])) for r in rows])
        elif f.kind == "id":
            columns[f.name] = tf.constant([r[f.name][0] if r[f.name] else b"" for r in rows])
        else:
            columns[f.name] = tf.constant([r[f.name][0] if r[f.name] else np.nan for r in rows], tf.float32)
    return columns


def as_request(rows: list[dict[str, list]], features=FEATURES) -> dict[str, tf.Tensor]:
    """Rows of one request as signature `rank` takes them."""
    once = {f.name for f in features if f.side != "item"}
    return {name: v[:1] if name in once else v for name, v in as_columns(rows, features).items()}
