"""TensorFlow's C++ loader by its C API, in a process without TensorFlow's Python."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.fresh_process import FreshModel, FreshProcessError
from serving.native import LIBRARY, NativeError, NativeSignature

LIB = Path(tf.__file__).parent / LIBRARY


class Module(tf.Module):
    """Gives back what it is asked, in every type; `told` asks Python."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(2.0)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant([b"", b"a\0b", b"x" * 100]), tf.constant([1, 2, 3])), -1
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string), tf.TensorSpec([None], tf.float32)])
    def main(self, texts, numbers):
        return {
            "number": self.table.lookup(texts),
            "length": tf.cast(tf.strings.length(texts), tf.int64),
            "double": numbers * self.weight,
            "any": tf.constant(True),
            "wide": tf.cast(numbers, tf.float64),
        }

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def asks_python(self, x):
        return {"y": tf.numpy_function(lambda value: value, [x], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def text(self, x):
        return {"y": tf.strings.as_string(x)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("saved"))
    module = Module()
    functions = {name: getattr(module, name) for name in ("main", "asks_python", "text")}
    tf.saved_model.save(module, folder, signatures=functions)
    document = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    signatures = {
        name: NativeSignature(
            {alias: info.name for alias, info in definition.inputs.items()},
            {alias: info.name for alias, info in definition.outputs.items()},
        )
        for name, definition in document.meta_graphs[0].signature_def.items()
        if name in functions
    }
    return folder, signatures


@pytest.fixture(scope="module")
def model(saved):
    with FreshModel(LIB, *saved) as fresh:
        yield fresh


def test_texts_and_numbers_go_both_ways(model):
    texts = np.array([[b"", b"a\0b", b"x" * 100], [b"a", "é".encode(), b"x" * 99]], dtype=object)
    numbers = np.array([1.5, np.nan, -np.inf, 1e-30], np.float32)
    found = model.run("main", {"texts": texts, "numbers": numbers})
    np.testing.assert_array_equal(found["number"], [[1, 2, 3], [-1, -1, -1]])
    np.testing.assert_array_equal(found["length"], [[0, 3, 100], [1, 2, 99]])
    np.testing.assert_array_equal(found["double"], numbers * 2)
    np.testing.assert_array_equal(found["wide"], numbers.astype(np.float64))
    assert found["any"] and {name: v.dtype for name, v in found.items()} == {
        "number": np.int32, "length": np.int64, "double": np.float32, "any": np.bool_, "wide": np.float64,
    }  # fmt: skip


def test_no_rows(model):
    found = model.run("main", {"texts": np.zeros([0, 3], object), "numbers": np.zeros([0], np.float32)})
    assert found["number"].shape == (0, 3) and found["double"].shape == (0,)


def test_requests_are_timed(model):
    request = {"texts": np.array([[b"a"]], dtype=object), "numbers": np.ones(1, np.float32)}
    taken = model.time("main", request, runs=7, seconds=60)
    assert len(taken) == 7 and (taken > 0).all()
    assert len(model.time("main", request, runs=1000, seconds=0)) == 5


def test_what_asks_python_cannot_run(model):
    with pytest.raises(NativeError, match="PyFunc"):
        model.run("asks_python", {"x": np.array(1, np.float32)})


def test_errors_of_the_graph_are_told_and_the_model_goes_on(model):
    with pytest.raises(NativeError, match="expected numbers"):
        model.run("text", {"x": np.array(1, np.float32)})
    with pytest.raises(NativeError, match="float"):
        model.run("main", {"texts": np.array([[b"a"]], dtype=object), "numbers": np.ones(1, np.int64)})
    assert model.run("main", {"texts": np.zeros([0, 3], object), "numbers": np.zeros([0], np.float32)})


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(NativeError, match="Could not find SavedModel"):
        FreshModel(LIB, tmp_path, {})


def test_a_library_that_is_not_there(saved, tmp_path):
    with pytest.raises(FreshProcessError, match="(?s)ended with exit code 1; its last words: .*libtensorflow_cc"):
        FreshModel(tmp_path / LIBRARY, *saved)


def test_a_process_that_dies_is_told(saved):
    with FreshModel(LIB, *saved) as model:
        os.kill(model._process.pid, signal.SIGSEGV)
        with pytest.raises(FreshProcessError, match="ended of SIGSEGV"):
            model.run("text", {"x": np.array(1, np.float32)})


def test_a_process_that_does_not_answer_is_told(saved):
    with FreshModel(LIB, *saved, timeout=60) as model:
        os.kill(model._process.pid, signal.SIGSTOP)
        model._timeout = 0.2
        with pytest.raises(FreshProcessError, match=r"no answer to 'run' within 0.2 s"):
            model.run("text", {"x": np.array(1, np.float32)})
