"""TF Serving's REST API, and the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import uvicorn
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from models.section import UserError
from serving.served_log import REQUEST_HEADER
from serving.server.errors import HTTP_STATUS, ServingError, invalid, not_found
from serving.server.requests import Requests
from serving.server.rest_json import body_of, inputs_of, parse
from serving.wire import PredictRequest

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/(?:versions/(?P<version>\d+)|labels/(?P<label>[^/:]+)))?"
_PREDICT = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
_NO_MODEL = re.compile(r"/v1/models(/metadata)?", re.IGNORECASE)
METRICS = "/monitoring/prometheus/metrics"

# Renamed in protobuf 26.
_NEW_NAME = "always_print_fields_with_no_presence"
_IS_NEW = _NEW_NAME in inspect.signature(json_format.MessageToJson).parameters
_WITH_DEFAULTS = _NEW_NAME if _IS_NEW else "including_default_value_fields"

Answer = tuple[int, bytes, str]
"""HTTP status, body and content type."""


class HttpServer:
    """An HTTP server on a port.

    Args:
      requests: what answers.
      host, port: where; port 0 takes a free one.
      threads: more than the requests that may run or wait, so that the others are refused at once.
      max_bytes: size limit of a request's body.
    """

    def __init__(self, requests: Requests, host: str, port: int, *, threads: int, max_bytes: int):
        self._requests = requests
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it; asyncio does not set it on them, and a body would wait 40 ms for its header's receipt.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            raise UserError(f"--rest-port: {host}:{port} cannot be used: {error.strerror}") from None
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="rest")

    def start(self) -> None:
        self._socket.listen(128)  # so that who comes before the loop runs waits, and is not refused
        self._thread.start()

    def stop(self) -> None:
        """Takes no new requests, and waits for those under way."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join()
        self._threads.shutdown()
        self._socket.close()

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        body, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            if size <= self._max_bytes:
                body.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        if size > self._max_bytes:
            answer = _error(413, f"expected a body of at most {self._max_bytes} bytes, got {size}")
        else:
            loop = asyncio.get_running_loop()
            path = unquote(scope["path"])
            named = dict(scope["headers"]).get(REQUEST_HEADER.encode())
            request_id = named.decode("latin-1") if named else None
            answer = await loop.run_in_executor(
                self._threads, self._answer, scope["method"], path, b"".join(body), request_id
            )
        status, content, kind = answer
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, method: str, path: str, body: bytes, request_id: str | None) -> Answer:
        try:
            if method == "GET" and path == METRICS:
                admission, manager = self._requests.admission, self._requests.manager
                text = self._requests.metrics.text(admission.waiting, manager.serving())
                return 200, text, "text/plain; version=0.0.4"
            if method == "POST" and (found := _PREDICT.fullmatch(path)) and found["method"].lower() == "predict":
                return 200, self._predict(_spec(found), body, request_id), "application/json"
            if method == "GET" and (found := _STATUS.fullmatch(path)):
                message = self._metadata(_spec(found)) if found["metadata"] else self._status(_spec(found))
                return 200, message.encode(), "application/json"
            if method == "GET" and _NO_MODEL.fullmatch(path):
                raise invalid("Missing model name in request.")
            if not path.lower().startswith("/v1/"):
                raise not_found(f"Not found: {path}; the API is below /v1/models/")
            raise invalid(f"Malformed request: {method} {path}")
        except ServingError as error:
            return _error(HTTP_STATUS[error.code], error.message)
        except Exception as error:
            return _error(500, f"{type(error).__name__}: {error}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, request_id: str | None) -> bytes:
        with contextlib.ExitStack() as held:
            with self._requests.counting_refusals("REST"):
                document = parse(body)
                spec.signature_name = document.get("signature_name", "")
                servable = held.enter_context(self._requests.manager.find(spec))
                name = spec.signature_name or "serving_default"
                if name not in servable.loaded.signatures:
                    raise invalid(f'Serving signature name: "{name}" not found in signature def')
                inputs, form = inputs_of(document, servable.loaded.signatures[name])
            # The version whose signature was read: a reload may come in between.
            spec.version.value = servable.version
            request = PredictRequest(model_spec=spec)
            for alias, proto in inputs.items():
                request.inputs[alias] = proto.SerializeToString()
            found = self._requests.predict(request, "REST", request_id=request_id).outputs
        return body_of({name: found[name] for name in sorted(found)}, form)

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._requests.metadata(request)
        # As TF Serving writes it: the map itself, and not an Any that says its type.
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        parts = {"model_spec": response.model_spec, "signature_def": signatures}
        written = {name: json.loads(_as_json(part)) for name, part in parts.items()}
        document = {"model_spec": written["model_spec"], "metadata": {"signature_def": written["signature_def"]}}
        return json.dumps(document, indent=1)

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        return _as_json(self._requests.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))


def _spec(found: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=found["model"])
    if found["version"]:
        if int(found["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {found['version']} to numeric.")
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = found["label"]
    return spec


def _as_json(message: Any) -> str:
    return json_format.MessageToJson(message, preserving_proto_field_name=True, **{_WITH_DEFAULTS: True})


def _error(status: int, message: str) -> Answer:
    return status, json.dumps({"error": message}).encode(), "application/json"
