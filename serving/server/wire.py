"""A PredictRequest whose tensors stay as they came: the graph parses them, and nothing before it."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_pb2

_Field = descriptor_pb2.FieldDescriptorProto


def _message() -> Any:
    """The class of PredictRequest, with bytes in the place of TensorProto: the same bytes on the wire."""
    file = descriptor_pb2.FileDescriptorProto(name="seesaw/wire.proto", package="seesaw", syntax="proto3")
    file.dependency.append(model_pb2.DESCRIPTOR.name)
    request = file.message_type.add(name="PredictRequest")
    entry = request.nested_type.add(name="InputsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_BYTES, label=_Field.LABEL_OPTIONAL)
    spec = f".{model_pb2.ModelSpec.DESCRIPTOR.full_name}"
    request.field.add(
        name="model_spec", number=1, type=_Field.TYPE_MESSAGE, label=_Field.LABEL_OPTIONAL, type_name=spec
    )
    request.field.add(
        name="inputs",
        number=2,
        type=_Field.TYPE_MESSAGE,
        label=_Field.LABEL_REPEATED,
        type_name=".seesaw.PredictRequest.InputsEntry",
    )
    request.field.add(name="output_filter", number=3, type=_Field.TYPE_STRING, label=_Field.LABEL_REPEATED)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName("seesaw.PredictRequest")
    # The name since protobuf 4.22, and the one before.
    made = getattr(message_factory, "GetMessageClass", None)
    return made(descriptor) if made is not None else message_factory.MessageFactory(pool).GetPrototype(descriptor)


PredictRequest = _message()


def dtype_of(tensor: bytes) -> int:
    """The dtype of a serialized TensorProto, without the rest: serializers write fields in their order, dtype first.

    Raises:
      DecodeError: if it is none.
    """
    if len(tensor) > 1 and tensor[0] == 0x08 and tensor[1] < 0x80:
        return tensor[1]
    return tensor_pb2.TensorProto.FromString(tensor).dtype
