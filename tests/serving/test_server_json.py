"""Bodies of the REST API, as TF Serving's documentation has them."""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server import ServingError
from serving.server.rest_json import body_of, inputs_of, parse


def signature(**dtypes):
    definition = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        definition.inputs[name].dtype = tf.as_dtype(dtype).as_datatype_enum
    return definition


def arrays(document, definition):
    tensors, form = inputs_of(parse(json.dumps(document).encode()), definition)
    return {name: tf.make_ndarray(t) for name, t in tensors.items()}, form


def test_rows_of_one_input_are_plain():
    found, form = arrays({"instances": [[[1, 2]], [[3, 4]]]}, signature(x="float32"))
    assert form == "row" and found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["x"], [[[1, 2]], [[3, 4]]])


def test_rows_of_several_inputs_are_objects():
    """The documentation's own example."""
    rows = [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
    ]
    found, _ = arrays({"instances": rows}, signature(tag="string", signal="int64", sensor="float32"))
    assert found["tag"].tolist() == [b"foo", b"bar"]
    assert found["signal"].tolist() == [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]]
    assert found["sensor"].shape == (2, 2, 2)


def test_columns_may_differ_in_their_first_size():
    inputs = {"tag": ["foo", "bar"], "signal": [[1.5, 2]]}
    found, form = arrays({"inputs": inputs}, signature(tag="string", signal="float32"))
    assert form == "columnar" and found["tag"].shape == (2,) and found["signal"].shape == (1, 2)


def test_one_column_may_be_plain_and_a_scalar_stays_one():
    assert arrays({"inputs": [1, 2]}, signature(x="int32"))[0]["x"].tolist() == [1, 2]
    assert arrays({"inputs": 3}, signature(x="int32"))[0]["x"].shape == ()


def test_an_extra_column_is_not_looked_at_as_in_tf_serving():
    assert set(arrays({"inputs": {"x": [1], "y": ["?"]}}, signature(x="int32"))[0]) == {"x"}


def test_bytes_are_base64_objects():
    raw = b"\x00\xff not text"
    found, _ = arrays({"instances": [{"b64": base64.b64encode(raw).decode()}]}, signature(x="string"))
    assert found["x"].tolist() == [raw]
    answer = json.loads(body_of({"image_bytes": np.array([raw], object)}, "row"))
    assert answer == {"predictions": [{"b64": base64.b64encode(raw).decode()}]}


def test_nan_and_infinity_go_both_ways():
    body = b'{"inputs": [NaN, Infinity, -Infinity, 1e3]}'
    tensors, _ = inputs_of(parse(body), signature(x="float32"))
    values = tf.make_ndarray(tensors["x"])
    np.testing.assert_array_equal(values, [np.nan, np.inf, -np.inf, 1000])
    np.testing.assert_array_equal(json.loads(body_of({"y": values}, "columnar"))["outputs"], values)


def test_float32_is_written_in_as_few_digits_as_give_it_back():
    values = np.float32([0.2, 1 / 3, 1.0, 1e-8, 123456.79])
    text = body_of({"y": values}, "columnar").decode()
    assert text == '{"outputs": [0.2, 0.33333334, 1.0, 1e-08, 123456.79]}'
    np.testing.assert_array_equal(np.float32(json.loads(text)["outputs"]), values)


@pytest.mark.parametrize(
    "outputs, form, expected",
    [
        ({"a": [1, 2]}, "row", {"predictions": [1, 2]}),
        ({"a": [1, 2], "b": [[3], [4]]}, "row", {"predictions": [{"a": 1, "b": [3]}, {"a": 2, "b": [4]}]}),
        ({"a": [1, 2]}, "columnar", {"outputs": [1, 2]}),
        ({"a": [1, 2], "b": [3]}, "columnar", {"outputs": {"a": [1, 2], "b": [3]}}),
    ],
)
def test_answers(outputs, form, expected):
    assert json.loads(body_of({n: np.array(v) for n, v in outputs.items()}, form)) == expected


def test_outputs_of_other_lengths_are_no_rows():
    with pytest.raises(ServingError, match="different or no batch size"):
        body_of({"a": np.array([1, 2]), "b": np.array([3])}, "row")


@pytest.mark.parametrize(
    "document, told",
    [
        ({"instances": [{"x": 1}, [2]]}, "Expecting object but got list at item 1"),
        ({"instances": [1, {"x": 2}]}, "Expecting value/list but got object at item 1"),
        ({"instances": [{"x": 1}, {"y": 2}]}, "element: 1 of 'instances' list. Keys must be equal to: x"),
        ({"instances": "x"}, "'instances' to be an list/array"),
        ({"instances": [[1, 2], [3]]}, "'x': Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"instances": [1, [2]]}, "'x': Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[1], 2]}, "'x': JSON Value: 2 found at incorrect level: 2"),
        ({"instances": [1.5]}, "'x': JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ({"inputs": {"x": [{"b64": "AA=="}]}}, '\'x\': JSON Value: {"b64": "AA=="} Type: Object'),
        ({"inputs": [2**40]}, "'x': JSON Value: 1099511627776 Type: Number is not of expected type: int32"),
    ],
)
def test_what_is_no_tensor_is_told(document, told):
    with pytest.raises(ServingError) as caught:
        arrays(document, signature(x="int32"))
    assert told in caught.value.message and caught.value.code.name == "INVALID_ARGUMENT"


def test_a_value_that_is_deeply_nested_is_refused():
    with pytest.raises(ServingError):
        arrays({"inputs": 1}, signature(x="int32", y="int32"))
    with pytest.raises(ServingError, match="JSON Parse error"):
        parse(b'{"inputs": ' + b"[" * 100_000)
