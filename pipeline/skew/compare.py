"""Columns of served rows beside the same rows as training reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.features import BucketedFeature, Feature, IdListFeature, NumberFeature

_SHOWN = 5
_BETWEEN = "\x1f"  # ASCII's unit separator, which no id has


@dataclass(frozen=True)
class FeatureSkew:
    """How a feature differs.

    Attributes:
      name: of the feature.
      rows: that differ.
      share: of the rows.
      only_served, only_training: rows in which only one side has a value.
      mean, largest: of the absolute differences of numbers, where both sides have one; None for ids.
      score_change: mean absolute change of the scores in the rows that differ; None without any.
      examples: the first rows that differ: request, item, served, training.
    """

    name: str
    rows: int
    share: float
    only_served: int
    only_training: int
    mean: float | None
    largest: float | None
    score_change: float | None
    examples: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class ScoreSkew:
    """How a score differs from the one that was served.

    Attributes:
      output: pctr or another.
      rows: that differ.
      share: of the rows.
      mean, largest: of the absolute differences of all rows.
    """

    output: str
    rows: int
    share: float
    mean: float
    largest: float


def differences(
    feature: Feature, served: pa.ChunkedArray, training: pa.ChunkedArray, number: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Where a feature's columns differ.

    Args:
      feature: the feature.
      served, training: its columns, row by row.
      number: numbers that differ by no more, as a share of the larger one, are the same.

    Returns:
      Whether a row differs, whether each side lacks a value, [rows] each; and the absolute differences of numbers, NaN
      where a side has none, or None for ids.
    """
    if isinstance(feature, (NumberFeature, BucketedFeature)):
        # As the model reads them: float32.
        a, b = (np.asarray(c.to_numpy(), np.float64).astype(np.float32).astype(np.float64) for c in (served, training))
        gone_a, gone_b = np.isnan(a), np.isnan(b)
        by = np.abs(a - b)
        allowed = number * np.maximum(np.abs(a), np.abs(b))
        differs = (gone_a != gone_b) | (by > allowed)  # NaN is not larger than anything
        return differs, gone_a, gone_b, by
    texts = [_texts(feature, column) for column in (served, training)]
    gone_a, gone_b = (np.asarray(pc.equal(t, "").combine_chunks()) for t in texts)
    return np.asarray(pc.not_equal(*texts).combine_chunks()), gone_a, gone_b, None


def feature_skew(
    feature: Feature,
    served: pa.ChunkedArray,
    training: pa.ChunkedArray,
    keys: tuple[pa.ChunkedArray, pa.ChunkedArray],
    score_changes: np.ndarray,
    number: float,
) -> FeatureSkew:
    """Counts the rows in which a feature differs; `keys` are the rows' requests and items, `score_changes` [rows]."""
    differs, gone_a, gone_b, by = differences(feature, served, training, number)
    where = np.flatnonzero(differs)
    both = np.zeros(0) if by is None else by[~np.isnan(by)]
    first = pa.array(where[:_SHOWN])
    shown = [c.take(first).to_pylist() for c in (*keys, served, training)]
    return FeatureSkew(
        name=feature.name,
        rows=len(where),
        share=len(where) / max(len(differs), 1),
        only_served=int((differs & ~gone_a & gone_b).sum()),
        only_training=int((differs & gone_a & ~gone_b).sum()),
        mean=None if by is None else float(both.mean()) if len(both) else 0.0,
        largest=None if by is None else float(both.max()) if len(both) else 0.0,
        score_change=float(score_changes[where].mean()) if len(where) else None,
        examples=tuple((str(r), str(i), _shown(a), _shown(b)) for r, i, a, b in zip(*shown)),
    )


def score_skew(
    served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], outputs: Sequence[str], tolerance: float
) -> tuple[ScoreSkew, ...]:
    """How scores [rows] by output differ from the served ones."""
    found = []
    for name in outputs:
        by = np.abs(served[name].astype(np.float64) - other[name].astype(np.float64))
        rows = int((~(by <= tolerance)).sum())  # NaN differs
        found.append(ScoreSkew(name, rows, rows / max(len(by), 1), float(by.mean()), float(by.max())))
    return tuple(found)


def _texts(feature: Feature, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(feature, IdListFeature):
        column = pc.binary_join(column, _BETWEEN)
    return pc.fill_null(column, "")


def _shown(value: object) -> str:
    if value is None or value == []:
        return "missing"
    text = " ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
