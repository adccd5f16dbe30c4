"""Raw rows of the evaluation days in the forms in which the signatures take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """An input of a signature.

    Attributes:
      dtype: its type.
      rank: 1 for a value a row, 2 for a list a row.
      once: whether it takes one row, whatever the number of candidates.
    """

    dtype: tf.DType
    rank: int
    once: bool


def signature_defs(folder: str | Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures of a SavedModel, without loading it."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    found = model.meta_graphs[0].signature_def
    return {name: definition for name, definition in found.items() if definition.method_name}


def inputs_of(definition: meta_graph_pb2.SignatureDef) -> dict[str, Input]:
    return {
        name: Input(tf.as_dtype(info.dtype), len(info.tensor_shape.dim), info.tensor_shape.dim[0].size == 1)
        for name, info in definition.inputs.items()
    }


def as_columns(examples: np.ndarray, inputs: Mapping[str, Input]) -> Columns:
    """A column for each input, of serialized tf.Examples [rows]: '' and NaN are missing values."""
    spec = {name: tf.io.VarLenFeature(kind.dtype) for name, kind in inputs.items()}
    parsed = tf.io.parse_example(tf.constant(examples.tolist(), tf.string), spec)
    columns = {}
    for name, kind in inputs.items():
        missing = b"" if kind.dtype == tf.string else np.nan
        values = tf.sparse.to_dense(parsed[name], missing).numpy()
        if values.shape[1] == 0:  # no row has a value
            values = np.full([len(examples), 1], missing, values.dtype)
        columns[name] = values if kind.rank == 2 else values[:, 0]
    return columns


def requests(columns: Columns, inputs: Mapping[str, Input]) -> Iterator[np.ndarray]:
    """Indices of rows that are alike in all that `rank` takes once, in the order in which they first come."""
    rows = len(next(iter(columns.values())))
    alike = np.zeros([rows, 1], np.int64)
    for name, kind in inputs.items():
        if kind.once:
            column = columns[name]
            # Texts of several values as one; NaN is like NaN.
            flat = np.array([repr(row) for row in column.tolist()]) if column.ndim == 2 else column
            flat = flat.astype(bytes) if flat.dtype == object else flat
            number = np.unique(flat, return_inverse=True)[1].reshape(-1, 1)
            alike = np.unique(np.hstack([alike, number]), axis=0, return_inverse=True)[1].reshape(-1, 1)
    request = alike[:, 0]
    _, firsts = np.unique(request, return_index=True)
    for first in np.sort(firsts):
        yield np.flatnonzero(request == request[first])


def as_request(columns: Columns, inputs: Mapping[str, Input], rows: np.ndarray | slice) -> Columns:
    """One request with the items of some rows, as `rank` takes it."""
    return {name: columns[name][rows][:1] if kind.once else columns[name][rows] for name, kind in inputs.items()}
