"""The embedded server, driven by public clients only: tensorflow-serving-api's stubs, and plain HTTP."""

import base64
import http.client
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from models.section import UserError
from serving.model_repository import ModelRepository
from serving.server import Server, ServerOptions, ServingError
from serving.server.admission import Admission
from serving.server.batching import Batching
from serving.server.metrics import Metrics
from serving.server.requests import Requests
from serving.wire import PredictRequest
from tests.serving.exported import as_columns, as_request
from tests.serving.versions import publish, shifted
from tests.transforms import FEATURES, raw_rows, serialize

pytestmark = pytest.mark.timeout(1200)  # the export takes most of it where the machine is busy

ONCE = [f.name for f in FEATURES if f.side != "item"]
OUTPUTS = ("pctr", "pcvr", "pctcvr")
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


def one_request(candidates, seed=5):
    rows = raw_rows(candidates, seed=seed)[:candidates]
    return [{**row, **{name: rows[0][name] for name in ONCE}} for row in rows]


def write_warm_up(saved_model):
    """One request for `rank`, where the server would else make one up for every signature."""
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(message(as_request(one_request(2)), "rank"))
    file = saved_model / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(log.SerializeToString())


@pytest.fixture(scope="module")
def saved_models(exported, tmp_path_factory):
    """Two SavedModels, the second with higher scores."""
    folder = tmp_path_factory.mktemp("models")
    first = shutil.copytree(exported, folder / "a")
    write_warm_up(first)
    return first, shifted(first, folder / "b", 1.0)


@pytest.fixture(scope="module")
def server(saved_models, tmp_path_factory):
    """Version 1 is 'previous' and scores low, version 2 is 'stable'."""
    root = tmp_path_factory.mktemp("repository")
    repository = ModelRepository(root, "shop")
    for saved_model in saved_models:
        publish(repository, saved_model)
    options = ServerOptions(
        port=0, rest_port=0, poll_seconds=0.2, max_request_bytes=8 << 20, log=root.parent / "served", log_seconds=0.1
    )
    with Server(root, options) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def expected(saved_models):
    """The scores of both versions, from TensorFlow's own loader."""
    rows = tf.constant([serialize(row) for row in one_request(20)])
    return [tf.saved_model.load(str(m)).signatures["serving_default"](rows) for m in saved_models]


def message(inputs, signature="", model="shop", label=None, version=None):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if label is not None:
        request.model_spec.version_label = label
    if version is not None:
        request.model_spec.version.value = version
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def http_call(server, method, path, body=None, raw=False, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    connection.request(method, path, content, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text.decode() if raw else json.loads(text)


def as_json(inputs):
    """Tensors as JSON of TF Serving's REST API: text as it is, missing numbers as NaN."""

    def plain(value):
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value.decode() if isinstance(value, bytes) else value

    return {name: plain(value.numpy().tolist()) for name, value in inputs.items()}


def check_scores(found, expected):
    for name in OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


SIGNATURES = {
    "": lambda rows: {"examples": tf.constant([serialize(row) for row in rows])},
    "predict": as_columns,
    "rank": as_request,
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_grpc_scores_by_every_signature(stub, expected, signature):
    response = stub.Predict(message(SIGNATURES[signature](one_request(20)), signature, label="stable"), 60)
    check_scores({name: tf.make_ndarray(v) for name, v in response.outputs.items()}, expected[1])
    assert response.model_spec.name == "shop"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == (signature or "serving_default")
    # TF Serving's default: typed fields, which clients without TensorFlow read.
    assert len(response.outputs["pctr"].float_val) == 20


@pytest.mark.parametrize(
    "choice, version", [({"label": "previous"}, 1), ({"version": 1}, 1), ({"label": "stable"}, 2), ({}, 2)]
)
def test_labels_and_versions_choose_and_the_highest_answers_without_either(stub, expected, choice, version):
    response = stub.Predict(message(as_request(one_request(20)), "rank", **choice), 60)
    check_scores({name: tf.make_ndarray(v) for name, v in response.outputs.items()}, expected[version - 1])
    assert response.model_spec.version.value == version
    assert np.abs(expected[0]["pctr"] - expected[1]["pctr"]).min() > 0.05


def test_only_the_wanted_outputs_come(stub):
    request = message(as_request(one_request(3)), "rank")
    request.output_filter.append("order")
    response = stub.Predict(request, 60)
    assert list(response.outputs) == ["order"]
    assert sorted(tf.make_ndarray(response.outputs["order"])) == [0, 1, 2]


@pytest.mark.parametrize("path, version", [("", 2), ("/labels/previous", 1), ("/versions/2", 2)])
def test_rest_scores_columns(server, expected, path, version):
    body = {"signature_name": "rank", "inputs": as_json(as_request(one_request(20)))}
    status, answer = http_call(server, "POST", f"/v1/models/shop{path}:predict", body)
    assert status == 200 and list(answer) == ["outputs"]
    check_scores(answer["outputs"], expected[version - 1])
    assert sorted(answer["outputs"]["order"]) == list(range(20))


def test_rest_scores_rows(server, expected):
    columns = as_json(as_columns(one_request(20)))
    instances = [dict(zip(columns, row)) for row in zip(*columns.values())]
    status, answer = http_call(
        server, "POST", "/v1/models/shop/labels/stable:predict", {"signature_name": "predict", "instances": instances}
    )
    assert status == 200 and list(answer) == ["predictions"]
    check_scores({name: [p[name] for p in answer["predictions"]] for name in OUTPUTS}, expected[1])


def test_rest_scores_examples_in_base64(server, expected):
    examples = [{"b64": base64.b64encode(serialize(row)).decode()} for row in one_request(20)]
    for body in ({"instances": examples}, {"inputs": {"examples": examples}}, {"inputs": examples}):
        status, answer = http_call(server, "POST", "/v1/models/shop/versions/1:predict", body)
        assert status == 200
        found = (
            answer["outputs"] if "outputs" in answer else {n: [p[n] for p in answer["predictions"]] for n in OUTPUTS}
        )
        check_scores(found, expected[0])


def test_metadata(server, stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "shop"
    request.model_spec.version_label = "stable"
    response = stub.GetModelMetadata(request, 60)
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    assert response.model_spec.version.value == 2
    # With what initialises the model, as in TF Serving.
    names = {"serving_default", "predict", "rank", "transform_features", "__saved_model_init_op"}
    assert set(found.signature_def) == names
    rank = found.signature_def["rank"]
    sizes = {name: [d.size for d in info.tensor_shape.dim] for name, info in rank.inputs.items()}
    assert sizes == {
        **{f.name: [-1] for f in FEATURES if f.side == "item"},
        **{f.name: [1] for f in FEATURES if f.side != "item"},
        "history": [1, -1],
    }
    assert set(rank.outputs) == {*OUTPUTS, "order"}

    status, answer = http_call(server, "GET", "/v1/models/shop/labels/stable/metadata")
    assert status == 200 and answer["model_spec"]["version"] == "2"
    definitions = answer["metadata"]["signature_def"]
    assert list(definitions) == ["signature_def"]  # and no "@type": http_rest_api_util.cc writes the map by itself
    by_rest = json_format.ParseDict(definitions, get_model_metadata_pb2.SignatureDefMap())
    assert by_rest == found


def test_status(server, channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "shop"
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, 60)
    assert [(s.version, s.state) for s in response.model_version_status] == [(2, AVAILABLE), (1, AVAILABLE)]
    status, answer = http_call(server, "GET", "/v1/models/shop")
    assert status == 200
    assert answer["model_version_status"] == [
        {"version": n, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}} for n in ("2", "1")
    ]
    assert http_call(server, "GET", "/v1/models/shop/versions/1")[1]["model_version_status"][0]["version"] == "1"
    # get_model_status_impl.cc looks at the version only, so that a label gives the states of all versions.
    assert http_call(server, "GET", "/v1/models/shop/labels/stable") == (200, answer)
    request.model_spec.version_label = "gold"
    assert model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, 60) == response


def without(name):
    return lambda inputs: {n: v for n, v in inputs.items() if n != name}


def replaced(**changes):
    return lambda inputs: {**inputs, **changes}


BAD = {
    "missing feature": (without("price"), {}, "INVALID_ARGUMENT", "Missing but required: {price}"),
    "extra feature": (replaced(colour=["red"]), {}, "INVALID_ARGUMENT", "Sent extra: {colour}"),
    "misspelt feature": (
        lambda i: replaced(pricee=[1.0] * 20)(without("price")(i)),
        {},
        "INVALID_ARGUMENT",
        "input tensor alias not found in signature: pricee",
    ),
    "text for a number": (replaced(price=["cheap"] * 20), {}, "INVALID_ARGUMENT", "'price': Expects it to be float32"),
    "integers for text": (replaced(item=list(range(20))), {}, "INVALID_ARGUMENT", "'item': Expects it to be string"),
    "float64 for float32": (replaced(price=np.zeros(20)), {}, "INVALID_ARGUMENT", "'price': Expects it to be float32"),
    "ragged candidates": (replaced(seller=["s1"] * 19), {}, "INVALID_ARGUMENT", "[item, seller, price, stock]"),
    "two users": (replaced(user=["a", "b"]), {}, "INVALID_ARGUMENT", "[user, history, age, hour] [; got] [2 1 1 1]"),
    "a scalar": (replaced(user="a"), {}, "INVALID_ARGUMENT", "input 'user': expected shape [1], got []"),
    "a table": (replaced(price=[[1.0] * 20]), {}, "INVALID_ARGUMENT", "'price': expected shape [?], got [1,20]"),
    "unknown model": (replaced(), {"model": "shoes"}, "NOT_FOUND", "Servable not found for request: Latest(shoes)"),
    "unknown version": (replaced(), {"version": 7}, "NOT_FOUND", "Servable not found for request: Specific(shop, 7)"),
    # As in TF Serving: not NOT_FOUND.
    "unknown label": (replaced(), {"label": "gold"}, "INVALID_ARGUMENT", "Unrecognized servable version label: gold"),
    "unknown signature": (replaced(), {"signature": "rnak"}, "FAILED_PRECONDITION", 'key "rnak" not found'),
    "no model": (replaced(), {"model": ""}, "INVALID_ARGUMENT", "name"),
}


@pytest.fixture
def still_serving(stub, expected):
    yield
    response = stub.Predict(message(as_request(one_request(20)), "rank", label="stable"), 60)
    check_scores({name: tf.make_ndarray(v) for name, v in response.outputs.items()}, expected[1])


@pytest.mark.parametrize("change, choice, code, told", BAD.values(), ids=BAD.keys())
def test_bad_requests_get_the_code_of_tf_serving_and_the_name_of_the_field(
    stub, still_serving, change, choice, code, told
):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message(change(as_request(one_request(20))), **{"signature": "rank", **choice}), 60)
    assert caught.value.code().name == code
    assert told in caught.value.details()
    assert "Graph execution error" not in caught.value.details() and 'File "' not in caught.value.details()


BAD_BODIES = {
    "no JSON": (b'{"inputs": ', 400, "JSON Parse error"),
    "nothing": (b"", 400, "The document is empty"),
    "a list": (b"[]", 400, "Is not object"),
    "no inputs": ({"signature_name": "rank"}, 400, "Missing 'inputs' or 'instances' key"),
    "both": ({"inputs": {}, "instances": []}, 400, "only one of 'inputs' or 'instances'"),
    "no instances": ({"instances": []}, 400, "No values in 'instances' array"),
    "a plain list": ({"signature_name": "rank", "inputs": [1]}, 400, "expecting an object as multiple"),
    "a number as name": ({"signature_name": 3, "inputs": {}}, 400, "'signature_name' key must be a string value"),
    "unknown signature": ({"signature_name": "rnak", "inputs": {}}, 400, '"rnak" not found in signature def'),
}


@pytest.mark.parametrize("body, status, told", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_bodies(server, still_serving, body, status, told):
    found, answer = http_call(server, "POST", "/v1/models/shop:predict", body)
    assert (found, list(answer)) == (status, ["error"]) and told in answer["error"]


BAD_COLUMNS = {
    "missing feature": (without("price"), "Missing named input: price"),
    "text for a number": (replaced(price=["cheap"] * 20), "'price': JSON Value: \"cheap\" Type: String is not of"),
    "a number for text": (
        replaced(item=[7] * 20),
        "'item': JSON Value: 7 Type: Number is not of expected type: string",
    ),
    "true for a number": (replaced(price=[True] * 20), "'price': JSON Value: true"),
    "null": (replaced(price=[None] * 20), "'price': JSON Value: null Type: Null"),
    "lists of other lengths": (replaced(history=[["a"], ["b", "c"]]), "'history': Encountered list at unexpected size"),
    "too large a number": (replaced(price=[1e300] * 20), "'price': Cannot convert JSON value"),
    "bad base64": (replaced(item=[{"b64": "!"}] * 20), "'item': Unable to base64 decode"),
    "ragged candidates": (replaced(seller=["s1"] * 19), "[item, seller, price, stock]"),
}


@pytest.mark.parametrize("change, told", BAD_COLUMNS.values(), ids=BAD_COLUMNS.keys())
def test_bad_columns_are_named(server, still_serving, change, told):
    body = {"signature_name": "rank", "inputs": change(as_json(as_request(one_request(20))))}
    status, answer = http_call(server, "POST", "/v1/models/shop:predict", body)
    assert status == 400 and told in answer["error"]


@pytest.mark.parametrize(
    "method, path, status, told",
    [
        ("POST", "/v1/models/shoes:predict", 404, "Servable not found for request: Latest(shoes)"),
        ("POST", "/v1/models/shop/versions/9:predict", 404, "Specific(shop, 9)"),
        ("POST", "/v1/models/shop/labels/gold:predict", 400, "Unrecognized servable version label: gold"),
        ("POST", "/v1/models/shop/versions/99999999999999999999:predict", 400, "Failed to convert version"),
        ("GET", "/v1/models/shoes", 404, "Could not find any versions of model shoes"),
        ("GET", "/v1/models/shop/versions/9", 404, "Could not find version 9 of model shop"),
        ("GET", "/v1/models/shop:predict", 400, "Malformed request: GET /v1/models/shop:predict"),
        ("POST", "/v1/shop:predict", 400, "Malformed request: POST /v1/shop:predict"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        # http_server.cc dispatches no path without /v1/.
        ("POST", "/v2/models/shop:predict", 404, "Not found: /v2/models/shop:predict"),
        ("GET", "/", 404, "Not found: /"),
    ],
)
def test_bad_paths(server, method, path, status, told):
    body = {"signature_name": "rank", "inputs": {}} if method == "POST" else None
    found, answer = http_call(server, method, path, body)
    assert found == status and told in answer["error"]


def test_a_truncated_tensor_is_named(stub, still_serving):
    request = message(as_request(one_request(20)), "rank")
    request.inputs["price"].tensor_content = request.inputs["price"].tensor_content[:-3]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, 60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "tensor parsing error: price"


def test_a_negative_dimension_is_named_and_no_code_of_the_server_is_told(stub, still_serving):
    request = message(as_request(one_request(20)), "rank")
    request.inputs["price"].tensor_shape.dim[0].size = -20
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, 60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "tensor parsing error: price"


def test_a_truncated_message_is_an_internal_error(channel, still_serving):
    whole = message(as_request(one_request(20)), "rank").SerializeToString()
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(whole[: len(whole) // 2], timeout=60)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("tensor", [b"\xff\xff", b"\x08\x01\x22\x7f"], ids=["no protobuf", "float, and then cut off"])
def test_a_tensor_that_is_no_message_is_an_internal_error_and_named(channel, still_serving, tensor):
    request = PredictRequest.FromString(message(as_request(one_request(20)), "rank").SerializeToString())
    request.inputs["price"] = tensor
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(request.SerializeToString(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "'price': expected a TensorProto" in caught.value.details()


def test_a_truncated_example_is_refused(stub, still_serving):
    example = serialize(one_request(1)[0])
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message({"examples": [example[:-3]]}), 60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "example" in caught.value.details()


def test_nan_and_empty_text_are_missing_values(stub):
    rows = one_request(20)
    bare = [{**row, "price": [], "item": [], "age": []} for row in rows]
    by_example = stub.Predict(message({"examples": [serialize(row) for row in bare]}), 60).outputs
    inputs = replaced(price=np.full(20, math.nan, np.float32), item=[""] * 20, age=np.array([math.nan], np.float32))
    by_column = stub.Predict(message(inputs(as_request(rows)), "rank"), 60).outputs
    for name in OUTPUTS:
        found = tf.make_ndarray(by_column[name])
        np.testing.assert_allclose(found, tf.make_ndarray(by_example[name]), atol=1e-6)
        assert np.isfinite(found).all()


def test_no_candidates(server, stub):
    request = {n: v if n in ONCE else v[:0] for n, v in as_request(one_request(2)).items()}
    response = stub.Predict(message(request, "rank"), 60)
    assert all(tf.make_ndarray(v).shape == (0,) for v in response.outputs.values())
    body = {"signature_name": "rank", "inputs": as_json(request)}
    assert http_call(server, "POST", "/v1/models/shop:predict", body) == (
        200,
        {"outputs": {"order": [], "pctcvr": [], "pctr": [], "pcvr": []}},
    )


def test_100_000_candidates_are_scored(stub, expected):
    few = as_request(one_request(20))
    many = {n: v if n in ONCE else tf.repeat(v[None], 5_000, axis=0).numpy().reshape(-1) for n, v in few.items()}
    response = stub.Predict(message(many, "rank", label="stable"), 120)
    found = tf.make_ndarray(response.outputs["pctcvr"])
    assert found.shape == (100_000,)
    np.testing.assert_allclose(found, np.tile(expected[1]["pctcvr"], 5_000), atol=1e-6)


def test_requests_over_the_size_limit_are_refused(server, stub, still_serving):
    huge = replaced(item=["x" * 1000] * 10_000)(as_request(one_request(2)))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message(huge, "rank"), 60)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status, answer = http_call(server, "POST", "/v1/models/shop:predict", b" " * (9 << 20))
    assert status == 413 and "at most 8388608 bytes" in answer["error"]


def test_metrics_and_health(server, channel, stub):
    stub.Predict(message(as_request(one_request(2)), "rank"), 60)
    status, text = http_call(server, "GET", "/monitoring/prometheus/metrics", raw=True)
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counts = ":tensorflow:serving:request_count"
    assert float(values[counts + '{entrypoint="GRPC",model_name="shop",status="OK",version="2"}']) >= 1
    assert f"# TYPE {counts} counter" in text.splitlines()
    assert float(values[':seesaw:serving:label_version{label="stable",model_name="shop"}']) == 2
    # A request by REST that gets no further than its JSON counts as well.
    refused = counts + '{entrypoint="REST",model_name="",status="INVALID_ARGUMENT",version=""}'
    http_call(server, "POST", "/v1/models/shop:predict", b"{")
    again = http_call(server, "GET", "/monitoring/prometheus/metrics", raw=True)[1]
    after = dict(line.rsplit(" ", 1) for line in again.splitlines() if not line.startswith("#"))
    assert float(after[refused]) == float(values.get(refused, 0)) + 1
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "PredictionService", "ModelService"):  # the names that server.cc sets
        assert health.Check(health_pb2.HealthCheckRequest(service=service), 60).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="tensorflow.serving.PredictionService"), 60)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_requests_that_are_joined_get_what_they_would_get_alone(server, expected):
    """Requests of all signatures at once, one of them bad, through the same versions with batching turned on."""
    rows = one_request(20)
    batching = Batching(max_batch_size=64, timeout_micros=300_000)
    requests = Requests(server.manager, Admission(2, 100), Metrics(), batching=batching)
    asked = []
    for i in range(12):
        some = rows[i : i + 1 + i % 4]
        signature = ("", "predict", "rank")[i % 3]
        asked.append((i, len(some), message(SIGNATURES[signature](some), signature, version=1 + i % 2)))
    bad = message({"examples": [serialize(rows[0])[:-3]]}, version=1)

    def send(request):
        try:
            return requests.predict(PredictRequest.FromString(request.SerializeToString()), "GRPC", 60)
        except ServingError as error:
            return error

    with ThreadPoolExecutor(13) as pool:
        *answers, refused = pool.map(send, [*(request for _, _, request in asked), bad])
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    for (i, n, _), answer in zip(asked, answers):
        for name in OUTPUTS:
            wanted = expected[i % 2][name][i : i + n]
            np.testing.assert_allclose(answer.outputs[name], wanted, atol=1e-6)


def test_requests_that_wait_for_a_batch_fill_the_queue(server):
    """One may run and three may wait; the others are sent away while the batch is still being filled."""
    batching = Batching(max_batch_size=64, timeout_micros=1_000_000)
    requests = Requests(server.manager, Admission(1, 3), Metrics(), batching=batching)
    small = message(as_columns(one_request(1)), "predict", version=2)

    def send(request):
        started = time.perf_counter()
        try:
            requests.predict(PredictRequest.FromString(request.SerializeToString()), "GRPC", 60)
        except ServingError as error:
            return error.code.name, time.perf_counter() - started
        return "OK", time.perf_counter() - started

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, [small] * 12))
    assert sorted(code for code, _ in answers) == ["OK"] * 4 + ["UNAVAILABLE"] * 8
    assert max(took for code, took in answers if code == "UNAVAILABLE") < 1
    assert send(message(as_request(one_request(2)), "rank"))[0] == "OK"


def test_answers_are_logged_with_the_id_of_the_request(server, stub, expected):
    rows = one_request(20)
    stub.Predict(message(as_request(rows), "rank", label="previous"), 60, metadata=[("x-request-id", "by-grpc")])
    body = {"signature_name": "predict", "inputs": as_json(as_columns(rows))}
    assert http_call(server, "POST", "/v1/models/shop:predict", body, headers={"X-Request-Id": "by-rest"})[0] == 200
    found = {}
    deadline = time.monotonic() + 60
    while set(found) != {"by-grpc", "by-rest"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        for file in server.options.log.glob("*/*.parquet"):
            for row in pq.read_table(file).to_pylist():
                if row["request_id"] in ("by-grpc", "by-rest"):
                    found.setdefault(row["request_id"], {}).setdefault(file, []).append(row)
    for request, version in (("by-grpc", 1), ("by-rest", 2)):
        (logged,) = found[request].values()
        assert {row["model_version"] for row in logged} == {version}
        np.testing.assert_allclose([r["served_pctr"] for r in logged], expected[version - 1]["pctr"], atol=1e-6)
        for sent, row in zip(rows, logged):
            assert row["item"] == (sent["item"][0].decode() if sent["item"] else None)
            assert (row["history"] or []) == [v.decode() for v in sent["history"]]
    by_rank, by_predict = (next(iter(found[r].values())) for r in ("by-grpc", "by-rest"))
    assert sorted(r["served_position"] for r in by_rank) == list(range(1, 21))
    assert "served_position" not in by_predict[0]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"port": 99_999}, "--port: expected 0 to 65535, got 99999"),
        ({"rest_port": -1}, "--rest-port: expected 0 to 65535, got -1"),
        ({"poll_seconds": 0}, "--poll: expected at least 0.01, got 0"),
        ({"running": -1}, "--running: expected at least 0, got -1"),
        ({"waiting": -1}, "--waiting: expected at least 0, got -1"),
        ({"max_request_bytes": 0}, "--max-bytes: expected at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, told):
    with pytest.raises(UserError) as caught:
        ServerOptions(**options)
    assert str(caught.value) == told


def test_a_deadline_that_has_passed_is_told(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message(as_request(one_request(20)), "rank"), 1e-4)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_versions_come_and_go_while_requests_run(server, stub, saved_models, expected, tmp_path):
    """A half-copied version and a corrupt one change nothing; a good one is swapped in, and a rollback out."""
    repository = ModelRepository(server.manager.root, "shop")

    def serving(label="stable"):
        return stub.Predict(message(as_request(one_request(2)), "rank", label=label), 60).model_spec.version.value

    def wait_for(condition):
        deadline = time.monotonic() + 240
        while not condition():
            assert time.monotonic() < deadline
            assert serving() in (1, 2, 5)
            time.sleep(0.05)

    def state(version):
        found = http_call(server, "GET", f"/v1/models/shop/versions/{version}")[1]
        return found.get("model_version_status", [{"state": None}])[0]

    half = shutil.copytree(saved_models[0], tmp_path / "half")
    shutil.rmtree(half / "variables")
    publish(repository, half)
    corrupt = shutil.copytree(saved_models[0], tmp_path / "corrupt")
    (corrupt / "saved_model.pb").write_bytes((corrupt / "saved_model.pb").read_bytes()[:5000])
    wait_for(lambda: state(3)["state"] == "END")
    assert "cannot be loaded" in state(3)["status"]["error_message"] and serving() == 2
    # Both changes of the labels have been seen, that to 'candidate' and that to 'stable', before the next ones come.
    wait_for(lambda: serving("previous") == 2)
    publish(repository, corrupt)
    wait_for(lambda: state(4)["state"] == "END")
    assert "saved_model.pb: cannot be parsed" in state(4)["status"]["error_message"] and serving() == 2

    good = shifted(saved_models[0], tmp_path / "good", 2.0)
    publish(repository, good)
    wait_for(lambda: serving() == 5)
    # Version 1 has no label any more; 'previous' stays at 2, because 4 cannot be loaded.
    wait_for(lambda: state(1)["state"] == "END")
    assert serving("previous") == 2
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message(as_request(one_request(2)), "rank", version=1), 60)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    repository.promote(2, "5 is slow")
    wait_for(lambda: serving() == 2)
    response = stub.Predict(message(as_request(one_request(20)), "rank", label="stable"), 60)
    check_scores({name: tf.make_ndarray(v) for name, v in response.outputs.items()}, expected[1])
