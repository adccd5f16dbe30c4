"""Scores examples with both sides in one pass, and keeps what a comparison needs as columns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tfx.dsl.io import fileio

from components.offline_ab.config import EvidenceConfig
from components.offline_ab.document import Side
from components.offline_ab.rows import CHOSEN, PRICE, PROPENSITY, TIME, VALUE, ScoredRows
from models.example_files import example_records
from models.metrics import hash_ids
from models.section import UserError

BATCH = 4096
SIGNATURE = "serving_default"
EVENT_TIME = "event_time"

_LOOKED_AT = 1000
"""Examples of the first file that tell the types of the columns; later ones are looked at for those not seen yet."""

_DTYPES = {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}


@dataclass(frozen=True)
class LoggedScores:
    """Scores that stand in the examples: the column of each output, such as {pctr: logged_pctr}."""

    columns: dict[str, str]


ScoredBy = Union[str, LoggedScores]
"""Folder of a SavedModel, or logged scores."""


@dataclass(frozen=True)
class ScoringSpec:
    """What is scored by what, and what is kept of each row.

    Attributes:
      outputs: names of the probabilities, such as pctr.
      labels: columns of the labels.
      slices: columns to cut by.
      sides: what scores.
      config: names of the other columns.
      dtypes: TensorFlow's type of each column, by `column_dtypes`.
    """

    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    slices: tuple[str, ...]
    sides: dict[Side, ScoredBy]
    config: EvidenceConfig
    dtypes: dict[str, tf.DType]

    @property
    def others(self) -> dict[str, str]:
        """Optional numbers: what they are, and the column."""
        config = self.config
        named = {PRICE: config.price, VALUE: config.value, TIME: EVENT_TIME}
        if config.off_policy:
            named |= {PROPENSITY: config.off_policy.propensity, CHOSEN: config.off_policy.chosen}
        return {what: column for what, column in named.items() if column is not None}


def columns_read(
    config: EvidenceConfig, labels: Sequence[str], slices: Sequence[str], sides: Mapping[Side, ScoredBy]
) -> tuple[str, ...]:
    """Names of all columns of the examples that a comparison reads, beside the models' features."""
    logged = [c for by in sides.values() if isinstance(by, LoggedScores) for c in by.columns.values()]
    return tuple(dict.fromkeys([*config.columns(), *labels, *slices, *logged, EVENT_TIME]))


def column_dtypes(files: Sequence[str], columns: Sequence[str], required: Sequence[str]) -> dict[str, tf.DType]:
    """The type of each column among the examples; columns that no example has are left out.

    Raises:
      UserError: naming a required column that is not there.
    """
    found: dict[str, tf.DType] = {}
    for number, file in enumerate(files):
        for record in example_records(file).take(_LOOKED_AT).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            for name in columns:
                if name not in found and name in feature and (kind := feature[name].WhichOneof("kind")):
                    found[name] = _DTYPES[kind]
        if len(found) == len(columns) or number >= 8:
            break
    if missing := [name for name in required if name not in found]:
        raise UserError(
            f"{os.path.dirname(files[0]) if files else 'examples'}: expected a column '{missing[0]}' in the examples, "
            f"found it in none"
        )
    return found


class ScoreExamples(beam.PTransform):
    """Files of serialized tf.Examples -> the number of rows of each; their scores go to Parquet files.

    Args:
      spec: what is scored by what.
      folder: where the files go; a worker that is tried again writes the same file.
    """

    def __init__(self, spec: ScoringSpec, folder: str):
        super().__init__()
        self._spec, self._folder = spec, folder

    def expand(self, files: beam.PCollection[str]) -> beam.PCollection[int]:
        return files | "Spread" >> beam.Reshuffle() | "Score" >> beam.ParDo(_ScoreFile(self._spec, self._folder))


class _ScoreFile(beam.DoFn):
    def __init__(self, spec: ScoringSpec, folder: str):
        self._spec, self._folder = spec, folder
        self._models: dict[Side, Any] = {}

    def setup(self) -> None:
        for side, by in self._spec.sides.items():
            if isinstance(by, str):
                self._models[side] = tf.saved_model.load(by)

    def process(self, file: str) -> Iterator[int]:
        tables = [self._score(batch).to_table() for batch in example_records(file).batch(BATCH).prefetch(1)]
        rows = sum(len(t) for t in tables)
        if rows:
            name = hashlib.sha256(file.encode()).hexdigest()[:16]
            # TFX's files are not what pyarrow calls a file.
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(tables).unify_dictionaries(), sink)
            with fileio.open(os.path.join(self._folder, f"scores-{name}.parquet"), "wb") as file_:
                file_.write(sink.getvalue().to_pybytes())
        yield rows

    def _score(self, batch: tf.Tensor) -> ScoredRows:
        spec = self._spec
        columns = _parse(batch, spec.dtypes)
        rows = int(batch.shape[0])
        scores: dict[Side, dict[str, np.ndarray]] = {}
        for side, by in spec.sides.items():
            if isinstance(by, LoggedScores):
                scores[side] = {name: _number(columns, by.columns[name]).astype(np.float32) for name in spec.outputs}
            else:
                scores[side] = _scores_of(self._models[side], batch, spec.outputs)
            _check(scores[side], by)
        config = spec.config
        numbers = {what: _number(columns, column) for what, column in spec.others.items() if column in columns}
        arm = config.arm.column if config.arm else None
        return ScoredRows(
            users=_ids(columns[config.user], config.user),
            requests=_ids(columns[config.request], config.request),
            labels={name: _number(columns, name) for name in spec.labels},
            scores=scores,
            weights=_weights(columns[config.weight], config.weight) if config.weight in columns else None,
            slices={name: _words(columns.get(name), rows) for name in spec.slices},
            others=numbers,
            arms=_words(columns[arm], rows) if arm in columns else None,
        )


def outputs_of(folder: str) -> tuple[str, ...]:
    """Names of the outputs of a SavedModel's signature `serving_default`, without loading it.

    Raises:
      UserError: if there is no SavedModel, or no such signature.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = os.path.join(folder, "saved_model.pb")
    if not fileio.exists(path):
        raise UserError(f"{folder}: expected the folder of a SavedModel, found no saved_model.pb in it")
    model = saved_model_pb2.SavedModel()
    with fileio.open(path, "rb") as file:
        model.ParseFromString(file.read())
    signatures = model.meta_graphs[0].signature_def
    if SIGNATURE not in signatures:
        raise UserError(
            f"{folder}: expected a signature '{SIGNATURE}', found {', '.join(sorted(signatures)) or 'none'}"
        )
    return tuple(sorted(signatures[SIGNATURE].outputs))


def read_scores(folder: str) -> ScoredRows:
    """The rows that `ScoreExamples` wrote, in the order of the files' names.

    Raises:
      UserError: if there is none.
    """
    files = sorted(f for f in fileio.listdir(folder) if f.endswith(".parquet"))
    tables = []
    for name in files:
        with fileio.open(os.path.join(folder, name), "rb") as source:
            tables.append(pq.read_table(pa.BufferReader(source.read())))
    if not tables:
        raise UserError(f"{folder}: no row was scored; expected examples to compare on")
    return ScoredRows.from_tables(tables)


def _scores_of(model: Any, batch: tf.Tensor, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    signature = model.signatures[SIGNATURE]
    (argument,) = signature.structured_input_signature[1]
    found = signature(**{argument: batch})
    return {name: found[name].numpy().reshape(-1) for name in outputs}


def _check(scores: Mapping[str, np.ndarray], by: ScoredBy) -> None:
    who = by if isinstance(by, str) else None
    for name, values in scores.items():
        good = (values >= 0) & (values <= 1)
        if not good.all():
            source = who or f"column '{by.columns[name]}'"  # type: ignore[union-attr]
            raise UserError(
                f"{source}: expected probabilities from 0 to 1 as {name}, found {values[~good][0]:g} and "
                f"{int((~good).sum()):,} such rows in a batch of {len(values):,}"
            )


def _parse(batch: tf.Tensor, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """First value of each column, objects (bytes) or float64; None or NaN where it is missing."""
    sparse = tf.io.parse_example(batch, {name: tf.io.VarLenFeature(dtype) for name, dtype in dtypes.items()})
    columns = {}
    for name, tensor in sparse.items():
        indices, values = tensor.indices.numpy(), tensor.values.numpy()
        first = indices[:, 1] == 0
        if dtypes[name] == tf.string:
            column = np.full(int(batch.shape[0]), None, dtype=object)
        else:
            column = np.full(int(batch.shape[0]), np.nan)
        column[indices[first, 0]] = values[first]
        columns[name] = column
    return columns


def _number(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    column = columns[name]
    if column.dtype == object:
        raise UserError(f"column '{name}': expected numbers in the examples, found text")
    return column


def _weights(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype == object or not (column >= 0).all():
        raise UserError(f"evidence.weight: expected a number of at least 0 in column '{name}' of every row")
    return column


def _ids(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype != object:
        column = pd.Series(column).astype("Int64").astype("string").to_numpy(dtype=object, na_value=None)
    missing = pd.isna(column)
    if missing.any():
        raise UserError(
            f"column '{name}': expected a value in every example, found {int(missing.sum()):,} of {len(column):,} rows "
            f"of a batch without"
        )
    return hash_ids(column)


def _words(column: np.ndarray | None, rows: int) -> pa.DictionaryArray:
    if column is None:
        return pa.nulls(rows, pa.string()).dictionary_encode()
    # Only distinct values are turned into text.
    encoded = pa.array(
        column, pa.binary() if column.dtype == object else pa.float64(), from_pandas=True
    ).dictionary_encode()
    words = [v.decode(errors="replace") if isinstance(v, bytes) else f"{v:g}" for v in encoded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(words, pa.string()))
