"""The client, against a server that answers what a test wants."""

import json
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from models.section import UserError
from serving.client import BadRequest, Client, DeadlineExceeded, NotFound, Overloaded, ServerFailure
from serving.served_log import ServedLog

INPUTS = {
    "user": (tf.string, [1]),
    "history": (tf.string, [1, -1]),
    "item": (tf.string, [-1]),
    "price": (tf.float32, [-1]),
}


def signature(sizes):
    definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for name, (dtype, shape) in sizes.items():
        definition.inputs[name].dtype = dtype.as_datatype_enum
        for size in shape:
            definition.inputs[name].tensor_shape.dim.add(size=size)
    return definition


SIGNATURES = get_model_metadata_pb2.SignatureDefMap()
SIGNATURES.signature_def["rank"].CopyFrom(signature(INPUTS))
SIGNATURES.signature_def["predict"].CopyFrom(signature({n: (d, [-1, *s[1:]]) for n, (d, s) in INPUTS.items()}))


class Scripted(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers with the codes of a script, then with scores that tell what came."""

    def __init__(self):
        self.script: list[grpc.StatusCode] = []
        self.requests: list[predict_pb2.PredictRequest] = []
        self.metadata = 0
        self.pause = 0.0
        self.named: list[str] = []

    def GetModelMetadata(self, request, context):
        self.metadata += 1
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(SIGNATURES)
        return response

    def Predict(self, request, context):
        self.requests.append(request)
        self.named += [value for key, value in context.invocation_metadata() if key == "x-request-id"]
        time.sleep(self.pause)
        if self.script:
            context.abort(self.script.pop(0), "Unrecognized servable version label: candidate")
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = 7
        price = tf.make_ndarray(request.inputs["price"])
        response.outputs["pctr"].CopyFrom(tf.make_tensor_proto(price / 100))
        return response


@pytest.fixture
def scripted():
    servicer = Scripted()
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(0).wait()


def test_answers_are_logged_and_the_request_is_named(scripted, tmp_path):
    with ServedLog(tmp_path) as log, Client(scripted.address, "shop", timeout=30, log=log) as client:
        client.rank({"user": "u"}, [{"item": "a", "price": 1.0}, {"item": "b", "price": 2.0}], request_id="r1")
        with pytest.raises(UserError):
            client.rank({"user": "u"}, [{"colour": "red"}], request_id="r2")
    assert scripted.named == ["r1"]
    (file,) = tmp_path.glob("*/*.parquet")
    columns = ["request_id", "user", "item", "history", "served_pctr", "model_version"]
    rows = pq.read_table(file).select(columns).to_pylist()
    same = {"request_id": "r1", "user": "u", "history": [], "model_version": 7}
    assert rows == [
        {**same, "item": "a", "served_pctr": pytest.approx(0.01)},
        {**same, "item": "b", "served_pctr": pytest.approx(0.02)},
    ]


@pytest.fixture
def client(scripted):
    with Client(scripted.address, "shop", timeout=5.0) as client:
        yield client


ITEMS = [{"item": "p1", "price": 10}, {"item": 2}, {"item": None, "price": 30.0}]


def sent(request):
    return {name: tf.make_ndarray(proto).tolist() for name, proto in request.inputs.items()}


@pytest.mark.parametrize(
    "items",
    [
        ITEMS,
        pa.table({"item": ["p1", "2", None], "price": [10.0, None, 30.0]}),
        pa.record_batch([pa.array(["p1", "2", None]), pa.array([10, None, 30])], names=["item", "price"]),
    ],
)
def test_rows_become_the_columns_of_the_signature(client, scripted, items):
    scores = client.rank({"user": "u1", "history": ["a", 7]}, items)
    (request,) = scripted.requests
    assert request.model_spec.version_label == "stable" and request.model_spec.signature_name == "rank"
    found = sent(request)
    assert found["user"] == [b"u1"] and found["history"] == [[b"a", b"7"]] and found["item"] == [b"p1", b"2", b""]
    np.testing.assert_array_equal(found["price"], [10, np.nan, 30])
    np.testing.assert_allclose(scores["pctr"], [0.1, np.nan, 0.3], rtol=1e-6)
    assert scores.version == 7


def test_what_a_request_lacks_is_missing(client, scripted):
    client.rank({}, [{}, {}])
    found = sent(scripted.requests[0])
    assert found["user"] == [b""] and found["history"] == [[b""]] and found["item"] == [b"", b""]
    assert np.isnan(found["price"]).all()


def test_no_candidates(client, scripted):
    assert client.rank({"user": "u"}, [])["pctr"].shape == (0,)
    assert sent(scripted.requests[0])["item"] == []


def test_lists_of_other_lengths_are_padded(client, scripted):
    client.predict([{"history": ["a"]}, {"history": ["a", "b", "c"]}, {}])
    assert sent(scripted.requests[0])["history"] == [[b"a", b"", b""], [b"a", b"b", b"c"], [b"", b"", b""]]


@pytest.mark.parametrize(
    "request_, items, told",
    [
        ({"usr": "u"}, [{}], "'usr' is no feature of the model here, expected some of history, user"),
        ({"price": 3}, [{}], "'price' is no feature"),
        ({}, [{"user": "u"}], "'user' is no feature of the model here, expected some of item, price"),
        ({}, [{"price": "cheap"}], "feature 'price': expected numbers, got 'cheap'"),
        ({}, [{"price": 1}, {"price": "9.5"}], "feature 'price': expected numbers, got '9.5'"),
        ({}, [{"price": [1.0]}], "feature 'price': expected numbers, got [1.0]"),
        ({}, [{"price": 1.0}, {"price": -1e300}], "'price': expected numbers that fit into float32, got -1e+300"),
        ({}, {"item": "p1"}, "expected dicts by feature name, or an Arrow table, got {'item': 'p1'}"),
        ([{"user": "u"}], [{}], "expected dicts by feature name, or an Arrow table, got [[{'user': 'u'}]]"),
        ({}, [{"item": 1.5}], "feature 'item': expected text or whole numbers, got 1.5"),
        ({"history": "a|b"}, [{}], "feature 'history': expected a list, got 'a|b'"),
    ],
)
def test_wrong_features_are_named_before_anything_is_sent(client, scripted, request_, items, told):
    with pytest.raises(UserError) as caught:
        client.rank(request_, items)
    assert told in str(caught.value) and not scripted.requests


@pytest.mark.parametrize(
    "code, error",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, BadRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, BadRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INTERNAL, ServerFailure),
    ],
)
def test_what_is_not_retryable_is_raised_at_once(client, scripted, code, error):
    scripted.script = [code]
    with pytest.raises(error) as caught:
        client.rank({}, ITEMS)
    assert caught.value.code == code and len(scripted.requests) == 1


def test_unavailable_is_sent_again_and_given_up_after_the_retries(client, scripted):
    scripted.script = [grpc.StatusCode.UNAVAILABLE] * 2
    assert client.rank({}, ITEMS).version == 7
    assert len(scripted.requests) == 3
    scripted.script = [grpc.StatusCode.UNAVAILABLE] * 3
    with pytest.raises(Overloaded):
        client.rank({}, ITEMS)
    assert len(scripted.requests) == 6 and not scripted.script


def test_retries_stay_within_the_deadline(scripted):
    with Client(scripted.address, "shop", timeout=0.5, retries=100) as client:
        client.inputs()
        scripted.script = [grpc.StatusCode.UNAVAILABLE] * 1000
        started = time.monotonic()
        with pytest.raises((Overloaded, DeadlineExceeded)):
            client.rank({}, ITEMS)
        assert time.monotonic() - started < 2
        assert 1 < len(scripted.requests) < 30


def test_an_answer_that_takes_too_long(scripted):
    with Client(scripted.address, "shop", timeout=0.3) as client:
        client.inputs()
        scripted.pause = 1.0
        with pytest.raises(DeadlineExceeded):
            client.rank({}, ITEMS)
        assert len(scripted.requests) == 1


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_server_that_is_not_there(transport):
    client = Client("127.0.0.1:1", "shop", transport=transport, timeout=20, retries=1)
    with client, pytest.raises(Overloaded) as caught:
        client.rank({}, ITEMS)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE and "Connection refused" in caught.value.message


def test_the_signature_is_asked_for_once_and_again_after_a_bad_request(client, scripted):
    for _ in range(3):
        client.rank({}, ITEMS)
    assert scripted.metadata == 1
    scripted.script = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(BadRequest):
        client.rank({}, ITEMS)
    client.rank({}, ITEMS)
    assert scripted.metadata == 2


@pytest.mark.parametrize(
    "choice, field, value",
    [
        ({}, "version_label", "stable"),
        ({"label": "previous"}, "version_label", "previous"),
        ({"version": 3}, "version", 3),
    ],
)
def test_label_or_version(scripted, choice, field, value):
    with Client(scripted.address, "shop", timeout=5, **choice) as client:
        client.rank({}, ITEMS)
    spec = scripted.requests[0].model_spec
    assert spec.WhichOneof("version_choice") == field
    assert (spec.version.value if field == "version" else spec.version_label) == value


@pytest.mark.parametrize("canary", [0.25, lambda: 0.25], ids=["a number", "as the repository says"])
def test_the_canary_gets_its_share_and_a_key_always_goes_the_same_way(scripted, canary):
    with Client(scripted.address, "shop", timeout=5, canary=canary) as client:
        ways = []
        for _ in range(2):
            scripted.requests.clear()
            for i in range(200):
                client.rank({}, [], key=f"user {i}")
            ways.append([r.model_spec.version_label for r in scripted.requests])
        assert ways[0] == ways[1] and set(ways[0]) == {"stable", "candidate"}
        # Binomial(200, 1/4): 50 ± 6; five deviations.
        assert 20 < ways[0].count("candidate") < 80
        scripted.requests.clear()
        client.rank({}, [])
        assert scripted.requests[0].model_spec.version_label == "stable"


def test_without_a_candidate_the_canary_goes_to_stable(scripted):
    with Client(scripted.address, "shop", timeout=5, canary=1.0) as client:
        scripted.script = [grpc.StatusCode.INVALID_ARGUMENT]
        assert client.rank({}, ITEMS, key="u").version == 7
    assert [r.model_spec.version_label for r in scripted.requests] == ["candidate", "stable"]


def test_many_threads_share_a_client(client, scripted):
    wrong = []

    def ask(i):
        scores = client.rank({"user": str(i)}, [{"price": float(i)}])
        if abs(scores["pctr"][0] - i / 100) > 1e-6:
            wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong and len(scripted.requests) == 20


def outcomes(prepared, number):
    """What so many requests, all under way at a time, came to."""
    found = queue.SimpleQueue()
    for _ in range(number):
        prepared.start(found.put)
    return [found.get(timeout=30) for _ in range(number)]


def test_prepared_requests_are_encoded_once_and_sent_often(client, scripted):
    prepared = client.prepare({"user": "u"}, [{"item": "a", "price": 50.0}])
    found = [prepared.send(), *outcomes(prepared, 3)]
    assert [(scores["pctr"].tolist(), scores.version) for scores in found] == [([0.5], 7)] * 4
    assert len(scripted.requests) == 4 and all(request == scripted.requests[0] for request in scripted.requests)


def test_what_is_started_is_sent_once_and_tells_its_error(client, scripted):
    prepared = client.prepare({"user": "u"}, [{"item": "a", "price": 50.0}])
    scripted.script = [grpc.StatusCode.UNAVAILABLE]
    (error,) = outcomes(prepared, 1)
    assert isinstance(error, Overloaded) and len(scripted.requests) == 1


@pytest.fixture
def rest():
    """A server that plays back answers, and keeps what was asked."""
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path.endswith("/metadata"):
                status, document = 200, {"metadata": {"signature_def": json_format.MessageToDict(SIGNATURES)}}
            else:
                asked.append((self.path, json.loads(body), self.client_address))
                status, document = answers.pop(0)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked, answers
    server.shutdown()


def test_rest_starts_requests_too(rest):
    address, _, answers = rest
    with Client(address, "shop", transport="rest", timeout=5) as client:
        prepared = client.prepare({"user": "u"}, [{"item": "a", "price": 2}])
        answers += [(200, {"outputs": {"pctr": [0.5]}}), (503, {"error": "full"}), (200, {"scores": []})]
        (scores,), (overloaded,), (unreadable,) = (outcomes(prepared, 1) for _ in range(3))
    assert scores["pctr"].tolist() == [0.5] and isinstance(overloaded, Overloaded)
    assert isinstance(unreadable, ServerFailure) and "outputs" in unreadable.message


def test_rest_sends_columns_over_one_connection(rest):
    address, asked, answers = rest
    with Client(address, "shop", transport="rest", timeout=5) as client:
        for _ in range(2):
            answers.append((200, {"outputs": {"pctr": [0.5, 0.25], "order": [1, 0]}}))
            scores = client.rank({"user": "u", "history": [1]}, [{"item": "a", "price": 2}, {"item": b"\xff"}])
    assert scores["pctr"].dtype == np.float32 and scores["pctr"].tolist() == [0.5, 0.25]
    assert scores["order"].tolist() == [1, 0] and scores.version is None
    path, body, _ = asked[0]
    assert path == "/v1/models/shop/labels/stable:predict" and body["signature_name"] == "rank"
    price = body["inputs"].pop("price")
    assert price[0] == 2 and np.isnan(price[1])
    assert body["inputs"] == {"user": ["u"], "history": [["1"]], "item": ["a", {"b64": "/w=="}]}
    assert asked[0][2] == asked[1][2]


@pytest.mark.parametrize(
    "status, error",
    [(400, BadRequest), (404, NotFound), (429, Overloaded), (500, ServerFailure), (504, DeadlineExceeded)],
)
def test_rest_errors(rest, status, error):
    address, _, answers = rest
    answers.append((status, {"error": "no"}))
    with Client(address, "shop", transport="rest", timeout=5) as client, pytest.raises(error, match="no"):
        client.rank({}, ITEMS)
    assert not answers


def test_rest_tries_again_when_the_server_is_full(rest):
    address, asked, answers = rest
    answers += [(503, {"error": "full"}), (200, {"outputs": {"pctr": [1.0]}})]
    with Client(address, "shop", transport="rest", timeout=5) as client:
        assert client.rank({}, [{}])["pctr"].tolist() == [1.0]
    assert len(asked) == 2


@pytest.mark.parametrize(
    "options, told", [({"canary": 1.5}, "a share from 0 to 1"), ({"transport": "http"}, "grpc or rest")]
)
def test_options_are_checked(options, told):
    with pytest.raises(UserError, match=told):
        Client("127.0.0.1:1", "shop", **options)
