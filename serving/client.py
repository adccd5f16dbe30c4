"""A client of a served ranker, by gRPC or REST: from rows to scores."""

from __future__ import annotations

import base64
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import grpc
import numpy as np
import urllib3
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    prediction_service_pb2_grpc,
)

from models.section import UserError
from serving.canary import place_of
from serving.columns import Column, Input, Rows, columns_of, request_columns
from serving.served_log import REQUEST_HEADER, ServedLog
from serving.wire import PredictRequest, PredictResponse, array_of, tensor_bytes, text_bytes

T = TypeVar("T")
Transport = Literal["grpc", "rest"]


class ClientError(Exception):
    """A request failed.

    Attributes:
      code: gRPC's code for it.
      message: what the server said.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class BadRequest(ClientError):
    """The server cannot take these inputs (INVALID_ARGUMENT, FAILED_PRECONDITION): the same request fails again."""


class NotFound(ClientError):
    """There is no such model or version."""


class Overloaded(ClientError):
    """The server takes no more requests for now, or is not there (UNAVAILABLE, RESOURCE_EXHAUSTED)."""


class DeadlineExceeded(ClientError):
    """The answer did not come in time."""


class ServerFailure(ClientError):
    """Anything else."""


_ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.FAILED_PRECONDITION: BadRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAVAILABLE: Overloaded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_HTTP = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
RETRYABLE = (grpc.StatusCode.UNAVAILABLE,)
"""The server did not begin with the request, so that sending it again does nothing twice."""
_CONNECTIONS = 32  # by REST, for requests that are under way at a time
_FIRST_PAUSE = 0.02  # seconds; doubled at each retry


@dataclass(frozen=True)
class Scores:
    """What the model says of the rows.

    Attributes:
      outputs: [rows] by name: pctr, pcvr, pctcvr, and 'order' from `Client.rank`.
      version: version of the model; None by REST, which does not tell.
    """

    outputs: dict[str, np.ndarray]
    version: int | None

    def __getitem__(self, output: str) -> np.ndarray:
        return self.outputs[output]


Done = Callable[["Scores | ClientError"], None]


@dataclass(frozen=True)
class Prepared:
    """A request that is encoded.

    Attributes:
      send: sends it and gives the scores, as `Client.rank` does.
      start: sends it once and returns; what it is given is called with the scores or the error, in another thread.
    """

    send: Callable[[], Scores]
    start: Callable[[Done], None]


class Client:
    """Asks a server for scores; connections are kept. May be used by many threads.

    Args:
      address: 'host:port' of gRPC, or of REST.
      model: name of the model.
      transport: how to ask.
      label: which version answers; None for the highest one that is in memory there, which may be a candidate.
      version: a version's number, in place of a label.
      timeout: seconds that a call may take, retries included.
      retries: how often a request that the server did not begin with is sent again.
      canary: share of the calls with a key that go to the label 'candidate', if there is one; or what gives it, such as
        `CanaryShare` of the model repository.
      log: keeps what was answered, where the server does not.

    Raises:
      UserError: for a share or a transport that is none.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        transport: Transport = "grpc",
        label: str | None = "stable",
        version: int | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        canary: float | Callable[[], float] = 0.0,
        log: ServedLog | None = None,
    ):
        if not callable(canary) and not 0 <= canary <= 1:
            raise UserError(f"canary: expected a share from 0 to 1, got {canary}")
        if transport not in ("grpc", "rest"):
            raise UserError(f"transport: expected grpc or rest, got {transport!r}")
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        elif label is not None:
            self._spec.version_label = label
        self._timeout = timeout
        self._retries = retries
        self._canary = canary if callable(canary) else lambda: canary
        self._log = log
        self._transport: _Transport = _Grpc(address) if transport == "grpc" else _Rest(address)
        self._inputs: dict[tuple[str, str], dict[str, Input]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def rank(
        self, request: Mapping[str, Any], candidates: Rows, *, key: str | None = None, request_id: str | None = None
    ) -> Scores:
        """Scores the candidates of one request.

        Args:
          request: the user's and the context's features; one that is left out or None is missing.
          candidates: the items' features, a row per candidate.
          key: what decides on the canary, such as the user's id; the same key always goes the same way.
          request_id: what the log of what is served calls the request, here or at the server.

        Raises:
          UserError: naming a feature that the model does not have, or whose value is of the wrong kind.
          ClientError: what the server answered.
        """

        def ask(spec: model_pb2.ModelSpec, deadline: float) -> Scores:
            inputs = self._inputs_of(spec, "rank", deadline)
            columns = request_columns(request, candidates, inputs)
            return self._predict(spec, "rank", inputs, columns, deadline, request_id)

        return self._on_the_way(ask, key)

    def prepare(self, request: Mapping[str, Any], candidates: Rows) -> Prepared:
        """Encodes a request of `rank` once, to be sent often. Arguments and errors are those of `rank`."""
        inputs = self._inputs_of(self._spec, "rank", time.monotonic() + self._timeout)
        columns = request_columns(request, candidates, inputs)
        encoded = self._transport.request(self._spec, "rank", inputs, columns)

        def send() -> Scores:
            deadline = time.monotonic() + self._timeout
            return self._retried(lambda left: self._transport.predict(encoded, left), deadline)

        return Prepared(send, lambda done: self._transport.start(encoded, self._timeout, done))

    def inputs(self, signature: str = "rank") -> dict[str, Input]:
        """What a signature takes."""
        return dict(self._inputs_of(self._spec, signature, time.monotonic() + self._timeout))

    def predict(self, rows: Rows, *, key: str | None = None, request_id: str | None = None) -> Scores:
        """Scores rows that need not be of one request. Arguments and errors are those of `rank`."""

        def ask(spec: model_pb2.ModelSpec, deadline: float) -> Scores:
            inputs = self._inputs_of(spec, "predict", deadline)
            return self._predict(spec, "predict", inputs, columns_of(rows, inputs), deadline, request_id)

        return self._on_the_way(ask, key)

    def _on_the_way(self, ask: Callable[[model_pb2.ModelSpec, float], Scores], key: str | None) -> Scores:
        deadline = time.monotonic() + self._timeout
        if key is not None and place_of(key) < self._canary():
            spec = model_pb2.ModelSpec(name=self._spec.name, version_label="candidate")
            try:
                return ask(spec, deadline)
            except BadRequest as error:
                if "Unrecognized servable version label" not in error.message:
                    raise
        return ask(self._spec, deadline)

    def _inputs_of(self, spec: model_pb2.ModelSpec, signature: str, deadline: float) -> dict[str, Input]:
        place = (str(spec), signature)
        if place not in self._inputs:
            definitions = self._retried(lambda left: self._transport.signatures(spec, left), deadline)
            if signature not in definitions:
                raise BadRequest(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
            self._inputs[place] = {n: _input(info) for n, info in definitions[signature].inputs.items()}
        return self._inputs[place]

    def _predict(
        self,
        spec: model_pb2.ModelSpec,
        signature: str,
        inputs: Mapping[str, Input],
        columns: Mapping[str, Column],
        deadline: float,
        request_id: str | None,
    ) -> Scores:
        try:
            request = self._transport.request(spec, signature, inputs, columns)
            scores = self._retried(lambda left: self._transport.predict(request, left, request_id), deadline)
            if self._log is not None:
                self._log.add(scores.version, signature, columns, scores.outputs, request_id)
            return scores
        except BadRequest:
            # Perhaps the model behind the label has other features by now.
            self._inputs.pop((str(spec), signature), None)
            raise

    def _retried(self, send: Callable[[float], T], deadline: float) -> T:
        pause = _FIRST_PAUSE
        for attempt in range(self._retries + 1):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {self._timeout} s")
            try:
                return send(left)
            except ClientError as error:
                wait = pause * random.uniform(0.5, 1.5)
                if error.code not in RETRYABLE or attempt == self._retries or wait >= deadline - time.monotonic():
                    raise
                time.sleep(wait)
                pause *= 2
        raise AssertionError("the last attempt returns or raises")


class _Transport(ABC):
    """One way to reach a server; failures are raised as `ClientError`."""

    @abstractmethod
    def signatures(self, spec: model_pb2.ModelSpec, timeout: float) -> Mapping[str, meta_graph_pb2.SignatureDef]: ...

    @abstractmethod
    def request(
        self, spec: model_pb2.ModelSpec, signature: str, inputs: Mapping[str, Input], columns: Mapping[str, Column]
    ) -> Any: ...

    @abstractmethod
    def predict(self, request: Any, timeout: float, request_id: str | None = None) -> Scores: ...

    @abstractmethod
    def start(self, request: Any, timeout: float, done: Done) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class _Grpc(_Transport):
    def __init__(self, address: str):
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.lb_policy_name", "round_robin"),  # where a name stands for several servers
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        # Takes a request's bytes, which are made once however often it is sent.
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=PredictResponse.FromString,
        )

    def signatures(self, spec, timeout):
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._call(self._stub.GetModelMetadata, request, timeout)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return found.signature_def

    def request(self, spec, signature, inputs, columns):
        return predict_request(spec, signature, inputs, columns)

    def predict(self, request, timeout, request_id=None):
        return _scores(self._call(self._predict, request, timeout, request_id))

    def start(self, request, timeout, done):
        call = self._predict.future(request, timeout=timeout)
        call.add_done_callback(lambda call: done(_outcome(lambda: _scores(_answer(call.result)))))

    def close(self):
        self._channel.close()

    @staticmethod
    def _call(method: Callable, request: Any, timeout: float, request_id: str | None = None) -> Any:
        named = [(REQUEST_HEADER, request_id)] if request_id is not None else None
        return _answer(lambda: method(request, timeout=timeout, metadata=named))


class _Rest(_Transport):
    def __init__(self, address: str):
        self._base = f"http://{address}/v1/models/"
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=False)
        self._threads = ThreadPoolExecutor(_CONNECTIONS)

    def signatures(self, spec, timeout):
        answer = self._send("GET", f"{_path(spec)}/metadata", None, timeout)
        found = get_model_metadata_pb2.SignatureDefMap()
        document = answer["metadata"]["signature_def"]
        document.pop("@type", None)
        json_format.ParseDict(document, found, ignore_unknown_fields=True)
        return found.signature_def

    def request(self, spec, signature, inputs, columns):
        values = {
            name: column.tolist() if isinstance(column, np.ndarray) else _as_json(column)
            for name, column in columns.items()
        }
        # JSON's NaN, as TF Serving reads it.
        return f"{_path(spec)}:predict", json.dumps({"signature_name": signature, "inputs": values}).encode()

    def predict(self, request, timeout, request_id=None):
        path, body = request
        outputs = self._send("POST", path, body, timeout, request_id)["outputs"]
        kinds = {"order": np.int32}
        return Scores({n: np.array(v, kinds.get(n, np.float32)) for n, v in outputs.items()}, None)

    def start(self, request, timeout, done):
        self._threads.submit(lambda: done(_outcome(lambda: self.predict(request, timeout))))

    def close(self):
        self._threads.shutdown(wait=False)
        self._pool.clear()

    def _send(
        self, method: str, path: str, body: bytes | None, timeout: float, request_id: str | None = None
    ) -> dict[str, Any]:
        headers = {REQUEST_HEADER: request_id} if request_id is not None else None
        try:
            limit = urllib3.Timeout(total=timeout)
            answer = self._pool.request(method, self._base + path, body=body, timeout=limit, headers=headers)
        except urllib3.exceptions.NewConnectionError as error:  # which is a time-out to urllib3 1, and none to 2
            raise _error(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        except urllib3.exceptions.TimeoutError:
            raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:.3f} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise _error(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        try:
            document = json.loads(answer.data)
        except ValueError:
            document = {"error": answer.data[:200].decode(errors="replace")}
        if answer.status != 200:
            code = _HTTP.get(answer.status, grpc.StatusCode.UNKNOWN)
            raise _error(code, document.get("error", f"HTTP status {answer.status}"))
        return document


def predict_request(
    spec: model_pb2.ModelSpec, signature: str, inputs: Mapping[str, Input], columns: Mapping[str, Column]
) -> bytes:
    """A serialized PredictRequest of columns for the inputs of a signature."""
    request = PredictRequest(model_spec=spec)
    request.model_spec.signature_name = signature
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            request.inputs[name] = tensor_bytes(column)
        elif inputs[name].rank == 2:
            rows = cast("list[list[bytes]]", column)
            shape = (len(rows), len(rows[0]) if rows else 1)
            request.inputs[name] = text_bytes([value for row in rows for value in row], shape)
        else:
            request.inputs[name] = text_bytes(cast("list[bytes]", column), (len(column),))
    return request.SerializeToString()


def _answer(ask: Callable[[], T]) -> T:
    """What gRPC gives; its errors as ours."""
    try:
        return ask()
    except grpc.RpcError as error:
        raise _error(error.code(), error.details()) from None


def _outcome(ask: Callable[[], Scores]) -> Scores | ClientError:
    try:
        return ask()
    except ClientError as error:
        return error
    except Exception as error:  # whoever waits for the outcome would wait for ever
        return ServerFailure(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def _scores(response: PredictResponse) -> Scores:
    outputs = {name: array_of(tensor) for name, tensor in response.outputs.items()}
    return Scores(outputs, response.model_spec.version.value)


def _input(info: meta_graph_pb2.TensorInfo) -> Input:
    sizes = [dim.size for dim in info.tensor_shape.dim]
    return Input(text=info.dtype == types_pb2.DT_STRING, rank=len(sizes), once=sizes[:1] == [1])


def _as_json(column: list) -> list:
    return [_as_json(v) if isinstance(v, list) else _text(v) for v in column]


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _path(spec: model_pb2.ModelSpec) -> str:
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        return f"{spec.name}/labels/{spec.version_label}"
    return f"{spec.name}/versions/{spec.version.value}" if choice else spec.name


def _error(code: grpc.StatusCode, message: str | None) -> ClientError:
    return _ERRORS.get(code, ServerFailure)(code, message or "")
