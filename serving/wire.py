"""Predict's messages with tensors as bytes, on the way of which Python makes no object of a number.

The server's graph parses the tensors of a request, and numbers travel as they lie in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

_Field = descriptor_pb2.FieldDescriptorProto


def _like(original: Any) -> Any:
    """The class of a message with bytes in the place of TensorProto: the same bytes on the wire."""
    name = original.DESCRIPTOR.name
    file = descriptor_pb2.FileDescriptorProto(name=f"seesaw/{name}.proto", package="seesaw", syntax="proto3")
    file.dependency.extend([model_pb2.DESCRIPTOR.name, original.DESCRIPTOR.file.name])
    original.DESCRIPTOR.CopyToProto(file.message_type.add())
    message = file.message_type[0]
    for entry in message.nested_type:  # of the map from names to tensors
        entry.field[1].type = _Field.TYPE_BYTES
        entry.field[1].ClearField("type_name")
    for field in filter(lambda f: f.type_name, message.field):
        field.type_name = field.type_name.replace(f".{original.DESCRIPTOR.full_name}.", f".seesaw.{name}.")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"seesaw.{name}")
    # The name since protobuf 4.22, and the one before.
    made = getattr(message_factory, "GetMessageClass", None)
    return made(descriptor) if made is not None else message_factory.MessageFactory(pool).GetPrototype(descriptor)


PredictRequest = _like(predict_pb2.PredictRequest)
PredictResponse = _like(predict_pb2.PredictResponse)
_FIELDS = {
    np.float32: (types_pb2.DT_FLOAT, "float_val"),
    np.float64: (types_pb2.DT_DOUBLE, "double_val"),
    np.int32: (types_pb2.DT_INT32, "int_val"),
    np.int64: (types_pb2.DT_INT64, "int64_val"),
    np.bool_: (types_pb2.DT_BOOL, "bool_val"),
    np.object_: (types_pb2.DT_STRING, "string_val"),
}
_FLOAT_VAL = bytes([5 << 3 | 2])  # field 5, of so many bytes
_STRING_VAL = bytes([8 << 3 | 2])


def predict_response(spec: model_pb2.ModelSpec, outputs: Mapping[str, np.ndarray]) -> bytes:
    """A serialized PredictResponse."""
    response = PredictResponse(model_spec=spec)
    for name, value in outputs.items():
        response.outputs[name] = tensor_bytes(value)
    return response.SerializeToString()


def tensor_bytes(value: np.ndarray) -> bytes:
    """A serialized TensorProto with its values in the field of their type, as TF Serving writes them: some clients read
    no other."""
    if value.dtype.type not in _FIELDS:  # a type that no ranker has
        return tf.make_tensor_proto(value).SerializeToString()
    dtype, field = _FIELDS[value.dtype.type]
    if dtype == types_pb2.DT_STRING:
        return text_bytes(value.ravel().tolist(), value.shape)
    # Fields may be appended, and packed floats are the same on the wire and in memory.
    beginning = _beginning(dtype, value.shape)
    if dtype == types_pb2.DT_FLOAT:
        floats = value.astype("<f4", copy=False).tobytes()
        return beginning + (_FLOAT_VAL + _varint(len(floats)) + floats if floats else b"")
    return beginning + tensor_pb2.TensorProto(**{field: value.ravel().tolist()}).SerializeToString()


def text_bytes(values: Sequence[bytes], shape: tuple[int, ...]) -> bytes:
    """A serialized TensorProto of text, as `tensor_bytes` makes it of an array."""
    sizes = list(map(len, values))
    of_sizes = _SHORT if max(sizes, default=0) < len(_SHORT) else {n: _STRING_VAL + _varint(n) for n in set(sizes)}
    # Joined in one go; messages would copy every value twice.
    pieces = [b""] * (2 * len(values))
    pieces[::2], pieces[1::2] = [of_sizes[n] for n in sizes], values
    return _beginning(types_pb2.DT_STRING, shape) + b"".join(pieces)


@lru_cache(maxsize=4096)
def _beginning(dtype: int, shape: tuple[int, ...]) -> bytes:
    """A TensorProto without its values."""
    proto = tensor_pb2.TensorProto(dtype=dtype)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto.SerializeToString()


def array_of(tensor: bytes) -> np.ndarray:
    """The array of a serialized TensorProto. Inverse of `tensor_bytes`, and of what else TF Serving may write.

    Raises:
      DecodeError: if it is none.
    """
    proto = tensor_pb2.TensorProto.FromString(tensor)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(shape)
    # What rankers return; TensorFlow's own way takes several times as long.
    if size and len(proto.float_val) == size:
        start = len(tensor) - 4 * size
        if tensor[:start].endswith(_FLOAT_VAL + _varint(4 * size)):  # in one piece, at the end
            return np.frombuffer(tensor, "<f4", offset=start).reshape(shape).copy()  # that may be written to
    if size and proto.dtype == types_pb2.DT_INT32 and len(proto.int_val) == size:
        return np.fromiter(proto.int_val, np.int32, size).reshape(shape)
    return tf.make_ndarray(proto)


def _varint(number: int) -> bytes:
    found = []
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


_SHORT = [_STRING_VAL + _varint(n) for n in range(128)]


def dtype_prefix(dtype: int) -> bytes:
    """How a TensorProto of a dtype begins: serializers write fields in their order, and the dtype is the first."""
    return bytes([1 << 3]) + _varint(dtype)


def dtype_of(tensor: bytes) -> int:
    """The dtype of a serialized TensorProto.

    Raises:
      DecodeError: if it is none.
    """
    return tensor_pb2.TensorProto.FromString(tensor).dtype
