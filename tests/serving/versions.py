"""Versions of a model that score differently, made without training or tracing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.model_repository import ModelRepository


def shifted(saved_model: Path, folder: Path, by: float) -> Path:
    """A copy of a SavedModel whose logits are larger by a number: the last biases are, in its checkpoint."""
    shutil.copytree(saved_model, folder)
    reader = tf.train.load_checkpoint(str(saved_model / "variables" / "variables"))
    names = sorted(reader.get_variable_to_shape_map())
    tensors = [reader.get_tensor(name) for name in names]
    biases = [i for i, n in enumerate(names) if n.startswith("heads/") and tensors[i].shape == (1,)]
    assert biases
    for i in biases:
        tensors[i] = tensors[i] + np.float32(by)
    shutil.rmtree(folder / "variables")
    (folder / "variables").mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(folder / "variables" / "variables"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(t) for t in tensors],
    )
    prefix = str(folder / "variables" / "variables")
    assert Path(f"{prefix}.index").exists()
    return folder


def publish(repository: ModelRepository, saved_model: Path, promote: bool = True) -> int:
    number = repository.publish(saved_model, reason="test")
    if promote:
        repository.promote(number, "test")
    return number
