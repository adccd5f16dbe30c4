"""Requests as messages, whatever brought them: prediction, metadata, status."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from grpc import StatusCode
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.served_log import ServedLog
from serving.server.admission import Admission
from serving.server.batching import Batching
from serving.server.errors import ServingError, invalid
from serving.server.loaded import DEFAULT_SIGNATURE, Servable
from serving.server.manager import ModelManager
from serving.server.metrics import Metrics
from serving.wire import PredictRequest

Entrypoint = Literal["GRPC", "REST"]
_SIGNATURES = "signature_def"
LOGGED = ("rank", "predict")
"""Signatures whose requests are logged: those that take features by name."""


@dataclass(frozen=True)
class Prediction:
    """What a signature answered.

    Attributes:
      spec: the model, its version and the signature.
      outputs: by name.
    """

    spec: model_pb2.ModelSpec
    outputs: Mapping[str, np.ndarray]


class Requests:
    """Answers requests as TF Serving does.

    Every method raises `ServingError` for what it cannot answer.

    Args:
      manager: the versions in service.
      admission: who runs and who waits.
      metrics: what is counted.
      log: where answered requests are kept, if anywhere.
      batching: joins small requests, if anything does.
    """

    def __init__(
        self,
        manager: ModelManager,
        admission: Admission,
        metrics: Metrics,
        log: ServedLog | None = None,
        batching: Batching | None = None,
    ):
        self.manager = manager
        self.admission = admission
        self.metrics = metrics
        self._log = log
        self._batching = batching

    def predict(
        self,
        request: PredictRequest,
        entrypoint: Entrypoint,
        seconds: float | None = None,
        request_id: str | None = None,
    ) -> Prediction:
        """Runs a signature; `seconds` is how long the caller will wait, `request_id` what the log calls the request."""
        arrived = time.perf_counter()
        model, version, status = request.model_spec.name, "", StatusCode.OK
        try:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            # Of a batch only the first request asks for a turn.
            place = self.admission.place() if self._batching is not None else contextlib.nullcontext()
            with place, self.manager.find(request.model_spec) as servable:
                version = str(servable.version)
                found = self._run(servable, request, seconds)
            signature = request.model_spec.signature_name
            if self._log is not None and signature in LOGGED and found:
                columns = servable.loaded.columns
                self._log.add(servable.version, signature, dict(request.inputs), found, request_id, columns)
            return Prediction(model_spec(servable.model, servable.version, signature), found)
        except ServingError as error:
            status = error.code
            raise
        except Exception:
            status = StatusCode.INTERNAL
            raise
        finally:
            # Names that a client makes up must not become series of their own.
            known = model if version else ""
            self.metrics.requests.labels(known, version, entrypoint, status.name).inc()
            self.metrics.latency.labels(known, "Predict", entrypoint).observe(1e6 * (time.perf_counter() - arrived))

    @contextlib.contextmanager
    def counting_refusals(self, entrypoint: Entrypoint) -> Iterator[None]:
        """Counts what cannot even be made a request to `predict`."""
        try:
            yield
        except ServingError as error:
            self.metrics.requests.labels("", "", entrypoint, error.code.name).inc()
            raise

    def _run(
        self, servable: Servable, request: PredictRequest, seconds: float | None
    ) -> Mapping[str, np.ndarray]:
        loaded, signature = servable.loaded, request.model_spec.signature_name
        outputs = tuple(request.output_filter)

        def timed(run: Callable[[], Mapping[str, np.ndarray]], left: float | None) -> Mapping[str, np.ndarray]:
            with self.admission.turn(left):
                began = time.perf_counter()
                found = run()
            took = time.perf_counter() - began
            self.metrics.runtime.labels(servable.model, "Predict", "TF1").observe(1e6 * took)
            return found

        if self._batching is not None and loaded.joinable(signature):
            arrays = loaded.arrays(signature, request.inputs, outputs)
            if arrays is not None:
                kind = (servable, signature, outputs)
                return self._batching.run(
                    kind,
                    arrays,
                    lambda joined, left: timed(lambda: loaded.run_arrays(signature, joined, outputs), left),
                    seconds,
                )
        return timed(lambda: loaded.run(signature, request.inputs, outputs), seconds)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.manager.find(request.model_spec) as servable:
            for name, definition in servable.loaded.definitions.items():
                signatures.signature_def[name].CopyFrom(definition)
            response.model_spec.CopyFrom(model_spec(servable.model, servable.version))
        response.metadata[_SIGNATURES].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return self.manager.status(request.model_spec)


def model_spec(model: str, version: int, signature: str | None = None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model)
    spec.version.value = version
    if signature is not None:
        spec.signature_name = signature or DEFAULT_SIGNATURE
    return spec
