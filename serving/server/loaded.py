"""One SavedModel in memory, run as TF Serving runs it: by a session on its signatures."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from models.section import UserError
from serving.native import LIBRARY, NativeError, NativeModel
from serving.server.errors import LoadError, ServingError, StatusCode, code_of, invalid, of_tensorflow
from serving.transform_graph import DESCRIPTION, check_transform
from serving.wire import dtype_of, dtype_prefix, tensor_bytes

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
DEFAULT_SIGNATURE = "serving_default"

# A request's operations run beside each other, but none is split over threads, which wait for one another: that costs
# more than it gains, the more so where several requests run.
_SESSION = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)

Inputs = Mapping[str, bytes]
"""A serialized TensorProto per input."""


@dataclass(frozen=True)
class _Call:
    """A signature of the session.

    Attributes:
      run: takes the serialized inputs as one array, in the order of `inputs`.
      inputs: by name, how a TensorProto of the dtype begins.
      outputs: their names, in the order in which `run` returns them.
    """

    run: Callable
    inputs: dict[str, bytes]
    outputs: list[str]


class LoadedModel:
    """A SavedModel, loaded and warmed up.

    Args:
      path: its folder.

    Attributes:
      definitions: of all signatures, by name.
      signatures: those that can be run, by name.
      columns: the exposure log's column of each feature that has another name there.

    Raises:
      LoadError: if it cannot be loaded, its transform is not the one that it was trained behind, or a warm-up
        request fails.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        meta_graph = _read(self.path)
        # Copies: a part of a message keeps all of it in memory, here the graph.
        self.definitions: dict[str, meta_graph_pb2.SignatureDef] = {
            name: copy.deepcopy(definition) for name, definition in meta_graph.signature_def.items()
        }
        self.signatures = {name: signature for name, signature in self.definitions.items() if signature.method_name}
        # What initialises the model, and no way to score.
        self.signatures.pop("__saved_model_init_op", None)
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=_SESSION)
        try:
            self._calls = self._load()
            check_transform(self.path)
            self.columns = _source_columns(self.path)
            self._warm_up()
        except ServingError as error:
            self.close()
            raise LoadError(error.code, f"{self.path}: a warm-up request failed: {error.message}") from None
        except LoadError:
            self.close()
            raise
        except Exception as error:
            self.close()
            said = of_tensorflow(error).message if isinstance(error, tf.errors.OpError) else str(error)
            told = said if isinstance(error, UserError) else f"{self.path}: cannot be loaded: {said}"
            raise LoadError(_refusal(self.path), told) from error

    def run(self, signature: str, inputs: Inputs, outputs: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          signature: its name; '' for the default one.
          inputs: a serialized TensorProto per input.
          outputs: the outputs to return; all of them by default.

        Raises:
          ServingError: with TF Serving's code.
        """
        inputs = dict(inputs)  # of which a message makes new bytes at each look
        name = self._checked(signature, inputs, outputs)
        call = self._calls[name]
        try:
            found = call.run(np.array([inputs[alias] for alias in call.inputs], dtype=object))
        except tf.errors.OpError as error:
            _check_ranks(self.signatures[name], _parsed(inputs))  # whose errors name the input
            raise of_tensorflow(error) from None
        except UnicodeDecodeError as error:  # TensorFlow's text quotes bytes of the request
            raise invalid(bytes(error.object).decode(errors="replace")) from None
        values = dict(zip(call.outputs, found))
        return {alias: values[alias] for alias in outputs} if outputs else values

    def joinable(self, signature: str) -> bool:
        """Whether rows of several requests can be inputs of one: no input is one row for all, as in `rank`."""
        definition = self.signatures.get(signature or DEFAULT_SIGNATURE)
        shapes = [info.tensor_shape.dim for info in definition.inputs.values()] if definition is not None else []
        return bool(shapes) and all(len(dims) > 0 and dims[0].size == -1 for dims in shapes)

    def arrays(self, signature: str, inputs: Inputs, outputs: Collection[str] = ()) -> dict[str, np.ndarray] | None:
        """A request's inputs as arrays, for `run_arrays`; None if they are not of one length. Errors as of `run`."""
        self._checked(signature, inputs, outputs)
        found = _parsed(inputs)
        rows = {value.shape[:1] for value in found.values()}
        return found if len(rows) == 1 and () not in rows else None

    def run_arrays(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature on arrays. Arguments and errors are those of `run`."""
        return self.run(signature, {alias: tensor_bytes(value) for alias, value in inputs.items()}, outputs)

    def _checked(self, signature: str, inputs: Inputs, outputs: Collection[str]) -> str:
        name = signature or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise ServingError(StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        wanted = self._calls[name].inputs
        if inputs.keys() != wanted.keys() or not all(inputs[alias].startswith(wanted[alias]) for alias in wanted):
            _check_inputs(self.signatures[name], inputs)  # whose errors name the input
        _check_outputs(self.signatures[name], outputs)
        return name

    def close(self) -> None:
        """Ends the session. The graph goes with the next garbage collection, whoever still holds this object."""
        self._session.close()
        self._calls = {}
        del self._session, self._graph

    def _load(self) -> dict[str, _Call]:
        with self._graph.as_default():
            serialized, parsed = {}, {}
            for name, definition in self.signatures.items():
                order = sorted(definition.inputs)
                # One string tensor of all TensorProtos: parsed in the graph, and not by Python.
                serialized[name] = tf.compat.v1.placeholder(tf.string, [len(order)], f"inputs_of_{name}")
                for alias, text in zip(order, tf.unstack(serialized[name])):
                    info = definition.inputs[alias]
                    parsed[info.name] = tf.io.parse_tensor(text, tf.as_dtype(info.dtype))
            tf.compat.v1.saved_model.load(self._session, ["serve"], str(self.path), input_map=parsed)
            calls = {}
            for name, definition in self.signatures.items():
                fetches = [definition.outputs[alias].name for alias in sorted(definition.outputs)]
                calls[name] = _Call(
                    self._session.make_callable(fetches, feed_list=[serialized[name]]),
                    {alias: dtype_prefix(definition.inputs[alias].dtype) for alias in sorted(definition.inputs)},
                    sorted(definition.outputs),
                )
            self._graph.finalize()
        return calls

    def _warm_up(self) -> None:
        file = self.path / WARM_UP
        if not file.exists():
            for name, definition in self.signatures.items():
                self.run(name, {alias: _one_row(info) for alias, info in definition.inputs.items()})
            return
        for log in _warm_up_logs(file):
            if log.HasField("predict_log"):
                request = log.predict_log.request
                inputs = {alias: proto.SerializeToString() for alias, proto in request.inputs.items()}
                self.run(request.model_spec.signature_name, inputs, request.output_filter)


class Servable:
    """A version in service, which is closed when it was released and its last request has ended."""

    def __init__(self, model: str, version: int, loaded: LoadedModel):
        self.model = model
        self.version = version
        self.loaded = loaded
        self._requests = 0
        self._released: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A request begins."""
        with self._lock:
            self._requests += 1

    def end(self) -> None:
        """A request has ended."""
        with self._lock:
            self._requests -= 1
            over = self._requests == 0 and self._released is not None
        if over:
            self._close()

    def release(self, then: Callable[[], None]) -> None:
        """No request will begin any more; `then` is called after the last one has ended."""
        with self._lock:
            self._released = then
            over = self._requests == 0
        if over:
            self._close()

    def _close(self) -> None:
        self.loaded.close()
        if self._released is not None:
            self._released()


def _warm_up_logs(file: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except (tf.errors.DataLossError, DecodeError) as error:
        # The codes are those of TF Serving's saved_model_warmup_util.cc.
        code = StatusCode.INVALID_ARGUMENT if isinstance(error, DecodeError) else StatusCode.DATA_LOSS
        raise LoadError(code, f"{file}: cannot be read; the file is damaged or half copied") from None


def _read(path: Path) -> meta_graph_pb2.MetaGraphDef:
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
    except FileNotFoundError:
        text = f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        raise LoadError(_refusal(path), text) from None
    except DecodeError:
        text = f"{path / 'saved_model.pb'}: cannot be parsed; the file is damaged or half copied"
        raise LoadError(_refusal(path), text) from None
    for meta_graph in saved_model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    raise LoadError(_refusal(path), f"{path}: Could not find meta graph def matching supplied tags: {{ serve }}")


def _refusal(path: Path) -> StatusCode:
    """The code with which TF Serving's loader refuses a version; of its first request, where it takes it."""
    try:
        NativeModel(Path(tf.__file__).parent / LIBRARY, path, {}).close()
    except NativeError as error:
        return code_of(error)
    return StatusCode.FAILED_PRECONDITION


def _source_columns(path: Path) -> dict[str, str]:
    features = json.loads((path / DESCRIPTION).read_text(encoding="utf-8")).get("features", [])
    return {f["name"]: f["column"] for f in features if f.get("column")}


def _check_inputs(definition: meta_graph_pb2.SignatureDef, inputs: Inputs) -> None:
    wanted, came = set(definition.inputs), set(inputs)
    if len(wanted) != len(came):
        raise invalid(
            f"input size does not match signature: {len(came)}!={len(wanted)} len({{{_list(came)}}}) != "
            f"len({{{_list(wanted)}}}). Sent extra: {{{_list(came - wanted)}}}. "
            f"Missing but required: {{{_list(wanted - came)}}}."
        )
    for alias in sorted(came - wanted):
        raise invalid(
            f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set {{{_list(wanted)}}}."
        )
    for alias, info in definition.inputs.items():
        try:
            dtype = dtype_of(inputs[alias])
        except DecodeError:
            raise _no_tensor(alias) from None
        if dtype != info.dtype:
            expected, found = (_dtype_name(d) for d in (info.dtype, dtype))
            raise invalid(f"input '{alias}': Expects it to be {expected} but {found} is provided")


def _check_outputs(definition: meta_graph_pb2.SignatureDef, outputs: Collection[str]) -> None:
    seen: set[str] = set()
    for alias in outputs:
        if alias not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_list(definition.outputs)}}}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def _parsed(inputs: Inputs) -> dict[str, np.ndarray]:
    """The inputs as arrays; raises the error of the first TensorProto that is not one."""
    found = {}
    for alias, serialized in sorted(inputs.items()):
        try:
            proto = tensor_pb2.TensorProto.FromString(serialized)
            if any(dim.size < 0 for dim in proto.tensor_shape.dim):  # which NumPy would take for "whatever fits"
                raise ValueError("a dimension is negative")
            found[alias] = tf.make_ndarray(proto)
        except DecodeError:
            raise _no_tensor(alias) from None
        except Exception:
            raise invalid(f"tensor parsing error: {alias}") from None
    return found


def _check_ranks(definition: meta_graph_pb2.SignatureDef, inputs: Mapping[str, np.ndarray]) -> None:
    for alias, value in inputs.items():
        sizes = [dim.size if dim.size >= 0 else "?" for dim in definition.inputs[alias].tensor_shape.dim]
        if value.ndim != len(sizes):
            shapes = ["[" + ",".join(map(str, shape)) + "]" for shape in (sizes, value.shape)]
            raise invalid(f"input '{alias}': expected shape {shapes[0]}, got {shapes[1]}")


def _no_tensor(alias: str) -> ServingError:
    # gRPC's code for a message that cannot be parsed, which a TensorProto is a part of.
    return ServingError(StatusCode.INTERNAL, f"input '{alias}': expected a TensorProto, which its bytes are not")


def _one_row(info: meta_graph_pb2.TensorInfo) -> bytes:
    dtype = tf.as_dtype(info.dtype)
    shape = [max(dim.size, 1) for dim in info.tensor_shape.dim]
    value = np.full(shape, "" if dtype == tf.string else 0, dtype.as_numpy_dtype)
    return tf.make_tensor_proto(value, dtype).SerializeToString()


def _dtype_name(dtype: int) -> str:
    return tf.as_dtype(dtype).name if dtype else "no dtype"


def _list(names: Collection[str]) -> str:
    return ",".join(sorted(names))
