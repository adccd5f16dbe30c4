"""A SavedModel in TensorFlow's C++ loader, which TF Serving uses, without TensorFlow's Python.

Here are the C API of the library in TensorFlow's wheel, and NumPy. Operations that some package registers when Python
imports it are unknown, as they are in TF Serving.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIBRARY = "libtensorflow_cc.so.2"
"""Name of the library, in the folder of the package `tensorflow`."""

_INVALID = 3  # INVALID_ARGUMENT
_STRING = 7
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}
"""NumPy's types by the numbers of TF_DataType."""
_NUMBERS = {np.dtype(dtype): number for number, dtype in _DTYPES.items()}

# A string that lies elsewhere: 24 bytes with length and address; the lowest two bits of the first are its kind.
_VIEW = np.dtype([("size", "<u8"), ("address", "<u8"), ("unused", "<u8")])
_IS_VIEW = 3


class NativeError(Exception):
    """The library refused something.

    Attributes:
      code: number of the status, as gRPC's.
      message: the library's own text.
    """

    def __init__(self, code: int, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class NativeSignature:
    """Names of the graph's tensors, such as 'rank_user_id:0', by those of the signature's inputs and outputs."""

    inputs: dict[str, str]
    outputs: dict[str, str]


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


class NativeModel:
    """A SavedModel loaded by the C API.

    Args:
      library: path of the shared library.
      folder: the SavedModel.
      signatures: of the model, by name.

    Raises:
      NativeError: if it cannot be loaded.
    """

    def __init__(self, library: str | Path, folder: str | Path, signatures: Mapping[str, NativeSignature]):
        self._api = _api(library)
        self._signatures = dict(signatures)
        self._status = c_void_p(self._api.TF_NewStatus())
        self._graph = c_void_p(self._api.TF_NewGraph())
        options = c_void_p(self._api.TF_NewSessionOptions())
        tags = (c_char_p * 1)(b"serve")
        self._session = c_void_p(
            self._api.TF_LoadSessionFromSavedModel(
                options, None, str(folder).encode(), tags, 1, self._graph, None, self._status
            )
        )
        self._api.TF_DeleteSessionOptions(options)
        self._check()

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          signature: its name.
          inputs: an array for each input; bytes in arrays of objects.

        Raises:
          NativeError: if it fails.
        """
        names = self._signatures[signature]
        fed = [self._output(names.inputs[alias]) for alias in inputs]
        texts: list[object] = []  # what the string tensors point to
        tensors = [self._tensor(value, texts) for value in inputs.values()]
        fetched = [self._output(tensor) for tensor in names.outputs.values()]
        results = (c_void_p * len(fetched))()
        try:
            self._api.TF_SessionRun(
                self._session, None,
                (_Output * len(fed))(*fed), (c_void_p * len(tensors))(*tensors), len(tensors),
                (_Output * len(fetched))(*fetched), results, len(fetched),
                None, 0, None, self._status,
            )  # fmt: skip
            self._check()
            return {alias: self._array(tensor) for alias, tensor in zip(names.outputs, results)}
        finally:
            for tensor in [*tensors, *filter(None, results)]:
                self._api.TF_DeleteTensor(tensor)

    def close(self) -> None:
        """Lets go of what was loaded."""
        self._api.TF_DeleteSession(self._session, self._status)
        self._api.TF_DeleteGraph(self._graph)
        self._api.TF_DeleteStatus(self._status)

    def _output(self, tensor: str) -> _Output:
        operation, _, index = tensor.partition(":")
        found = self._api.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise NativeError(_INVALID, f"the graph has no operation '{operation}', which a signature names")
        return _Output(found, int(index or 0))

    def _tensor(self, value: np.ndarray, texts: list[object]) -> int:
        if value.dtype == object:
            value, number = _views(value, texts), _STRING
        else:
            value, number = np.ascontiguousarray(value), _NUMBERS[value.dtype]
        shape = (c_int64 * max(1, value.ndim))(*value.shape)
        tensor = self._api.TF_AllocateTensor(number, shape, value.ndim, value.nbytes)
        ctypes.memmove(self._api.TF_TensorData(tensor), value.ctypes.data, value.nbytes)
        return tensor

    def _array(self, tensor: int) -> np.ndarray:
        dtype = _DTYPES.get(self._api.TF_TensorType(tensor))
        if dtype is None:
            raise NativeError(_INVALID, f"an output of type {self._api.TF_TensorType(tensor)}: expected numbers")
        shape = [self._api.TF_Dim(tensor, i) for i in range(self._api.TF_NumDims(tensor))]
        data = ctypes.string_at(self._api.TF_TensorData(tensor), self._api.TF_TensorByteSize(tensor))
        return np.frombuffer(data, dtype).reshape(shape)

    def _check(self) -> None:
        if code := self._api.TF_GetCode(self._status):
            raise NativeError(code, self._api.TF_Message(self._status).decode(errors="replace"))


def _views(value: np.ndarray, texts: list[object]) -> np.ndarray:
    """Strings as the library has them, pointing into one buffer, which is kept in `texts`."""
    flat = value.ravel().tolist()
    buffer = ctypes.create_string_buffer(b"".join(flat))
    texts.append(buffer)
    sizes = np.fromiter(map(len, flat), np.uint64, len(flat))
    views = np.zeros(len(flat), _VIEW)
    views["size"] = sizes << np.uint64(2) | np.uint64(_IS_VIEW)
    views["address"] = np.uint64(ctypes.addressof(buffer)) + np.cumsum(sizes, dtype=np.uint64) - sizes
    return views.reshape(value.shape)


def _api(library: str | Path) -> ctypes.CDLL:
    api = ctypes.CDLL(str(library))
    outputs, pointers = POINTER(_Output), POINTER(c_void_p)
    handle = c_void_p
    signatures: dict[str, tuple] = {
        "TF_NewStatus": (handle,),
        "TF_GetCode": (c_int, handle),
        "TF_Message": (c_char_p, handle),
        "TF_NewGraph": (handle,),
        "TF_DeleteStatus": (None, handle),
        "TF_DeleteGraph": (None, handle),
        "TF_DeleteSession": (None, handle, handle),
        "TF_NewSessionOptions": (handle,),
        "TF_DeleteSessionOptions": (None, handle),
        "TF_LoadSessionFromSavedModel": (
            *(handle, handle, handle, c_char_p, POINTER(c_char_p), c_int, handle, handle, handle),
        ),
        "TF_GraphOperationByName": (handle, handle, c_char_p),
        "TF_AllocateTensor": (handle, c_int, POINTER(c_int64), c_int, c_size_t),
        "TF_DeleteTensor": (None, handle),
        "TF_TensorType": (c_int, handle),
        "TF_NumDims": (c_int, handle),
        "TF_Dim": (c_int64, handle, c_int),
        "TF_TensorByteSize": (c_size_t, handle),
        "TF_TensorData": (handle, handle),
        "TF_SessionRun": (
            *(None, handle, handle, outputs, pointers, c_int, outputs, pointers, c_int, handle, c_int, handle, handle),
        ),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(api, name)
        function.restype, function.argtypes = result, arguments
    return api
