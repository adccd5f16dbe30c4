"""JSON bodies of TF Serving's REST API, and the tensors that they stand for."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.errors import invalid

Format = Literal["row", "columnar"]
_SHOWN = 200  # characters of a value in an error
_KINDS: dict[tf.DType, tuple[type, ...]] = {
    **dict.fromkeys((tf.float32, tf.float64, tf.float16), (int, float)),
    **dict.fromkeys((tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64), (int,)),
    tf.bool: (bool,),
}


def parse(body: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
      ServingError: if there is none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def inputs_of(
    document: dict[str, Any], signature: meta_graph_pb2.SignatureDef
) -> tuple[dict[str, tensor_pb2.TensorProto], Format]:
    """The inputs of a request, row by row ('instances') or column by column ('inputs').

    Raises:
      ServingError: naming the input.
    """
    wanted = dict(signature.inputs)
    if "instances" in document and "inputs" in document:
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        return _tensors(_columns(document["instances"], wanted), wanted), "row"
    if "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    given = document["inputs"]
    if not isinstance(given, dict) or _is_base64(given):
        if len(wanted) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        given = {next(iter(wanted)): given}
    for name in wanted:
        if name not in given:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    # What is named and not wanted is not looked at, as in TF Serving.
    return _tensors({name: given[name] for name in wanted}, wanted), "columnar"


def body_of(outputs: Mapping[str, np.ndarray], form: Format) -> bytes:
    """The body of an answer."""
    if form == "columnar":
        columns = {name: _values(name, v) for name, v in outputs.items()}
        answer = {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    else:
        sizes = {name: v.shape[0] if v.ndim else None for name, v in outputs.items()}
        if len(set(sizes.values())) != 1 or None in sizes.values():
            raise invalid(f"Tensors with different or no batch size cannot be given as rows: {sizes}")
        rows = {name: _values(name, v) for name, v in outputs.items()}
        if len(rows) == 1:
            answer = {"predictions": next(iter(rows.values()))}
        else:
            answer = {"predictions": [dict(zip(rows, row)) for row in zip(*rows.values())]}
    return json.dumps(answer).encode()


def _columns(instances: Any, wanted: Mapping[str, Any]) -> dict[str, list]:
    if not isinstance(instances, list):
        raise invalid("Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("No values in 'instances' array")
    named = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not named and len(wanted) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns: dict[str, list] = {name: [] for name in wanted}
    for i, row in enumerate(instances):
        if (isinstance(row, dict) and not _is_base64(row)) != named:
            came = "list" if named else "object"
            raise invalid(f"Expecting {'object' if named else 'value/list'} but got {came} at item {i} of input list")
        if not named:
            columns[next(iter(wanted))].append(row)
            continue
        if row.keys() != wanted.keys():
            extra, missing = sorted(row.keys() - wanted.keys()), sorted(wanted.keys() - row.keys())
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. Keys must be equal to: "
                f"{','.join(sorted(wanted))}. Extra: {extra}, missing: {missing}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _tensors(values: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, tensor_pb2.TensorProto]:
    tensors = {}
    for name, value in values.items():
        dtype = tf.as_dtype(wanted[name].dtype)
        shape: list[int] = []
        first = value
        while isinstance(first, list):
            shape.append(len(first))
            first = first[0] if first else None
        flat: list = []
        _flatten(value, shape, 0, name, flat)
        tensors[name] = tf.make_tensor_proto(_converted(flat, dtype, name).reshape(shape), dtype)
    return tensors


def _flatten(value: Any, shape: list[int], level: int, name: str, flat: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"input '{name}': JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(value)
        return
    if level >= len(shape):
        raise invalid(f"input '{name}': Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"input '{name}': Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    if level + 1 == len(shape) and not any(isinstance(v, list) for v in value):
        flat.extend(value)
        return
    for below in value:
        _flatten(below, shape, level + 1, name, flat)


def _converted(flat: list, dtype: tf.DType, name: str) -> np.ndarray:
    kinds = (str, bytes) if dtype == tf.string else _KINDS.get(dtype)
    if kinds is None:
        raise invalid(f"input '{name}': Conversion of JSON Value to type: {dtype.name} is not implemented")
    if dtype == tf.string:
        flat = [_decoded(v, name) if isinstance(v, dict) else v for v in flat]
    for value in flat:
        # True is an int for Python, and none for TF Serving.
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and dtype != tf.bool)
        if wrong or (dtype.is_integer and not dtype.min <= value <= dtype.max):
            raise invalid(
                f"input '{name}': JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: "
                f"{dtype.name}"
            )
    if dtype == tf.string:
        return np.array([v.encode() if isinstance(v, str) else v for v in flat], dtype=object)
    try:
        with np.errstate(over="ignore"):  # which is told below
            array = np.array(flat, dtype=dtype.as_numpy_dtype)
    except OverflowError:
        array = np.array([np.inf])
    if dtype.is_floating:
        lost = np.isinf(array).sum() != sum(math.isinf(v) for v in flat)
        if lost:
            raise invalid(f"input '{name}': Cannot convert JSON value to {dtype.name} without loss of precision.")
    return array


def _decoded(value: dict, name: str) -> bytes:
    if not _is_base64(value):
        raise invalid(f"input '{name}': JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"input '{name}': Unable to base64 decode") from None


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _values(name: str, value: np.ndarray) -> Any:
    if value.dtype == np.float32:
        # The shortest decimals that are this float32, and not those of the nearest float64.
        return _nested(value.shape, [float(str(v)) for v in value.ravel()])
    if value.dtype == object:
        as_base64 = name.endswith("_bytes")
        texts = [{"b64": base64.b64encode(v).decode()} if as_base64 else v.decode() for v in value.ravel()]
        return _nested(value.shape, texts)
    return value.tolist()


def _nested(shape: tuple[int, ...], flat: list) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    size = len(flat) // shape[0] if shape[0] else 0
    return [_nested(shape[1:], flat[i * size : (i + 1) * size]) for i in range(shape[0])]


def _json_type(value: Any) -> str:
    names = {bool: str(value), str: "String", dict: "Object", list: "Array", type(None): "Null"}
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
