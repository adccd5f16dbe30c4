"""Tensors as bytes, against TensorFlow's own reading and writing of them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.wire import PredictRequest, PredictResponse, array_of, dtype_of, predict_response, tensor_bytes

FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "object": "string_val",
}
SHAPES = ((), (1,), (0,), (3,), (40,), (2, 5), (300,))


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    if dtype == "object":
        return np.array([b"a" * n for n in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    return rng.normal(0, 50, shape).astype(dtype) if shape else np.array(rng.normal(0, 50)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FIELDS)
class TestTensors:
    def test_are_read_by_tensorflow_from_the_field_of_their_type(self, dtype, shape):
        value = values(dtype, shape)
        proto = tensor_pb2.TensorProto.FromString(tensor_bytes(value))
        found = tf.make_ndarray(proto)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
        assert {field.name for field, _ in proto.ListFields()} <= {"dtype", "tensor_shape", FIELDS[dtype]}
        assert len(getattr(proto, FIELDS[dtype])) == value.size

    def test_are_read_back(self, dtype, shape):
        value = values(dtype, shape)
        found = array_of(tensor_bytes(value))
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)

    def test_written_by_tensorflow_are_read(self, dtype, shape):
        value = values(dtype, shape)
        found = array_of(tf.make_tensor_proto(value).SerializeToString())
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found, value)


def test_floats_in_several_pieces_or_fewer_than_the_shape_says_are_read():
    half = tensor_pb2.TensorProto(dtype=1, float_val=[1.5, -2.5])
    shape = tensor_pb2.TensorProto()
    shape.tensor_shape.dim.add(size=4)
    # A message twice is its fields joined.
    in_pieces = half.SerializeToString() + half.SerializeToString() + shape.SerializeToString()
    np.testing.assert_array_equal(array_of(in_pieces), [1.5, -2.5, 1.5, -2.5])
    repeated = tensor_pb2.TensorProto(dtype=1, float_val=[0.25])
    repeated.tensor_shape.dim.add(size=3)
    np.testing.assert_array_equal(array_of(repeated.SerializeToString()), [0.25] * 3)


def test_what_is_no_tensor_is_an_error():
    with pytest.raises(DecodeError):
        array_of(b"\xff\xff")


def test_messages_are_the_same_bytes_as_tf_servings():
    spec = model_pb2.ModelSpec(name="shop", signature_name="rank")
    request = predict_pb2.PredictRequest(model_spec=spec, output_filter=["pctr"])
    request.inputs["price"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
    found = PredictRequest.FromString(request.SerializeToString())
    assert (found.model_spec, list(found.output_filter)) == (spec, ["pctr"])
    assert found.inputs["price"] == request.inputs["price"].SerializeToString()
    assert dtype_of(found.inputs["price"]) == 1
    outputs = {"pctr": np.array([0.5, 0.25], np.float32), "order": np.array([1, 0], np.int32)}
    message = predict_response(spec, outputs)
    response = predict_pb2.PredictResponse.FromString(message)
    assert response.model_spec == spec
    assert (list(response.outputs["pctr"].float_val), list(response.outputs["order"].int_val)) == ([0.5, 0.25], [1, 0])
    assert PredictResponse.FromString(message).outputs["pctr"] == response.outputs["pctr"].SerializeToString()
