"""Errors with TF Serving's codes, as gRPC and HTTP give them."""

from __future__ import annotations

import tensorflow as tf
from grpc import StatusCode

from models.section import UserError
from serving.native import NativeError

# As in TF Serving's HTTP server.
HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
_BY_NUMBER = {code.value[0]: code for code in StatusCode}


class ServingError(Exception):
    """What a request is answered with when it fails.

    Attributes:
      code: gRPC's code; `HTTP_STATUS` has HTTP's for it.
      message: what was wrong.
    """

    def __init__(self, code: StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class LoadError(UserError):
    """A version cannot be loaded.

    Attributes:
      code: of TF Serving's status of the version.
    """

    def __init__(self, code: StatusCode, message: str):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> ServingError:
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    return ServingError(StatusCode.NOT_FOUND, message)


def of_tensorflow(error: tf.errors.OpError) -> ServingError:
    """The code and the text of an error in the graph, as the C++ session gives it.

    TensorFlow's Python raises it again with a heading, and with the places in the Python code that made the graph.
    """
    first = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
    return ServingError(code_of(error), first.message)


def code_of(error: Exception) -> StatusCode:
    """The code of whatever kept a version from being loaded or a request from being answered."""
    if isinstance(error, tf.errors.OpError):
        return _BY_NUMBER.get(error.error_code, StatusCode.UNKNOWN)
    if isinstance(error, NativeError):
        return _BY_NUMBER.get(error.code, StatusCode.UNKNOWN)
    return error.code if isinstance(error, (LoadError, ServingError)) else StatusCode.UNKNOWN
