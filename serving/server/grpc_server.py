"""TF Serving's gRPC services."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2_grpc,
)

from serving.served_log import REQUEST_HEADER
from serving.server.errors import ServingError
from serving.server.requests import Requests
from serving.wire import PredictRequest, predict_response

_LOG = logging.getLogger(__name__)
SERVICES = ("", "PredictionService", "ModelService")
"""Names under which health may be asked for, TF Serving's; '' is the whole server."""
# It would log a stack for every message that cannot be parsed; the client gets INTERNAL for it.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)


class PredictionService:
    """Predict and GetModelMetadata; the other methods are not implemented."""

    def __init__(self, requests: Requests):
        self._requests = requests

    def Predict(self, request, context):
        def answer():
            named = dict(context.invocation_metadata()).get(REQUEST_HEADER)
            found = self._requests.predict(request, "GRPC", context.time_remaining(), named)
            return predict_response(found.spec, found.outputs)

        return _answer(context, answer)

    def GetModelMetadata(self, request, context):
        return _answer(context, lambda: self._requests.metadata(request))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; what is served follows the model repository, so there is no HandleReloadConfigRequest."""

    def __init__(self, requests: Requests):
        self._requests = requests

    def GetModelStatus(self, request, context):
        return _answer(context, lambda: self._requests.status(request))

    def HandleReloadConfigRequest(self, request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "This server follows the labels of its model repository.")


class GrpcServer:
    """A gRPC server on a port.

    Args:
      requests: what answers.
      address: 'host:port'; port 0 takes a free one.
      threads: more than the requests that may run or wait, so that the others are refused at once.
      max_bytes: size limit of a request.
    """

    def __init__(self, requests: Requests, address: str, *, threads: int, max_bytes: int):
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", max_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a rival
            ],
        )
        service = PredictionService(requests)
        methods = {
            # Not TF Serving's own classes, which would parse the tensors here.
            "Predict": grpc.unary_unary_rpc_method_handler(
                service.Predict, PredictRequest.FromString, response_serializer=None
            ),
            "GetModelMetadata": grpc.unary_unary_rpc_method_handler(
                service.GetModelMetadata,
                get_model_metadata_pb2.GetModelMetadataRequest.FromString,
                get_model_metadata_pb2.GetModelMetadataResponse.SerializeToString,
            ),
        }
        handler = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods)
        self._server.add_generic_rpc_handlers((handler,))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(requests), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(address)

    def start(self) -> None:
        self._server.start()

    def tell_health(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in SERVICES:
            self._health.set(service, status)

    def stop(self, grace: float) -> None:
        """Takes no new requests, and gives those under way so many seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()


def _answer(context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ServingError as error:
        return context.abort(error.code, error.message)
    except Exception as error:
        _LOG.exception("a request failed")
        return context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
