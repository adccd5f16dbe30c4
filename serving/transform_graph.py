"""A hash of the transform graph: the transform that serves must be the one that the model was trained behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import tensorflow_transform as tft
from tensorflow.core.framework import function_pb2
from tensorflow.core.protobuf import saved_model_pb2

from models.section import UserError

DESCRIPTION = Path("assets.extra") / "seesaw" / "model.json"
"""What a SavedModel says of itself, inside its folder: features, chain, model, embedding layout and transform."""


def transform_hash(transform: tft.TFTransformOutput) -> str:
    """SHA-256 of a fitted transform: its operations, their constants, and its vocabularies."""
    folder = Path(transform.transform_savedmodel_dir)
    # What else the library has is called from it, loads tables or saves.
    graph = max(_functions(folder), key=lambda function: len(function.node_def))
    return _hash(_digest(graph), _vocabularies(folder))


def check_transform(saved_model: str | Path) -> None:
    """Checks that the transform inside a SavedModel, and its vocabularies, have the hash that its description gives.

    Raises:
      UserError: if they have not.
    """
    folder = Path(saved_model)
    try:
        expected = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["transform"]
    except FileNotFoundError:
        raise UserError(
            f"{folder}: expected {DESCRIPTION}, found none; the version is half copied, or not a model of this pipeline"
        ) from None
    except (ValueError, KeyError):
        raise UserError(f"{folder / DESCRIPTION}: expected JSON with the hash of the transform graph") from None
    vocabularies = _vocabularies(folder)
    if expected not in (_hash(_digest(function), vocabularies) for function in _functions(folder)):
        raise UserError(
            f"{folder}: expected the transform graph and vocabularies of hash {expected[:12]}, behind which the model "
            f"was trained, found others: the files in it do not belong together"
        )


def _functions(folder: Path) -> list[function_pb2.FunctionDef]:
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((folder / "saved_model.pb").read_bytes())
    return list(saved_model.meta_graphs[0].graph_def.library.function)


def _digest(function: function_pb2.FunctionDef) -> str:
    """A digest that does not change when the function is loaded and saved within another model."""
    lines = []
    for node in function.node_def:
        # Names of called functions get new numbers, and attributes with an underscore are the runtime's notes.
        attributes = {k: v for k, v in node.attr.items() if not k.startswith("_") and k != "config_proto"}
        kept = [
            (k, v.SerializeToString(deterministic=True).hex())
            for k, v in sorted(attributes.items())
            if v.WhichOneof("value") not in ("func", "list")
        ]
        lines.append(json.dumps([node.name, node.op, list(node.input), kept]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _vocabularies(folder: Path) -> dict[str, str]:
    files = sorted((folder / "assets").glob("*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _hash(digest: str, vocabularies: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([digest, vocabularies]).encode()).hexdigest()
