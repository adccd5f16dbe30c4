"""Rows that the trainer has scored itself, by which a served model is checked."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tfx.dsl.io import fileio

from components.trainer.input import Examples
from models.ranker import Ranker
from models.section import UserError

REFERENCE_FILE = "reference.npz"
ROWS = 4096
_FEATURE, _SCORE = "feature ", "score "


@dataclass(frozen=True)
class Reference:
    """Some transformed rows, and what the trainer's model makes of them.

    Attributes:
      features: by name, [rows] or [rows, length].
      scores: probabilities by output, float32 [rows].
    """

    features: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.scores.values())))

    def write(self, folder: str) -> None:
        arrays = {_FEATURE + name: values for name, values in self.features.items()}
        arrays |= {_SCORE + name: values for name, values in self.scores.items()}
        buffer = io.BytesIO()  # TFX's files are not what NumPy calls a file
        np.savez(buffer, **arrays)
        with fileio.open(os.path.join(folder, REFERENCE_FILE), "wb") as file:
            file.write(buffer.getvalue())

    @classmethod
    def read(cls, folder: str) -> Reference:
        """Reads what `write` wrote.

        Raises:
          UserError: if it is not there.
        """
        path = os.path.join(folder, REFERENCE_FILE)
        if not fileio.exists(path):
            raise UserError(f"{path}: expected rows with the trainer's scores, found no such file")
        with fileio.open(path, "rb") as file, np.load(io.BytesIO(file.read())) as arrays:
            return cls(
                {n.removeprefix(_FEATURE): arrays[n] for n in arrays.files if n.startswith(_FEATURE)},
                {n.removeprefix(_SCORE): arrays[n] for n in arrays.files if n.startswith(_SCORE)},
            )


def score_reference(ranker: Ranker, examples: Examples, rows: int = ROWS) -> Reference:
    """Scores the first rows of the examples by the Keras model, as it is in memory.

    Args:
      ranker: the trained ranker.
      examples: transformed rows.
      rows: at most so many.
    """
    features: list[dict[str, np.ndarray]] = []
    scores: list[dict[str, np.ndarray]] = []
    fast = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # processors that serve do not round to it
    try:
        for batch, *_ in examples.in_order():
            features.append({name: values.numpy() for name, values in batch.items()})
            scores.append({name: values.numpy() for name, values in ranker(batch, training=False).items()})
            if sum(len(next(iter(part.values()))) for part in scores) >= rows:
                break
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(fast)
    return Reference(_joined(features, rows), _joined(scores, rows))


def _joined(parts: list[dict[str, np.ndarray]], rows: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]} if parts else {}
