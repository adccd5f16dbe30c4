"""Versions that are half copied or damaged: refused with TF Serving's code, while another goes on serving."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving.fresh_process import FreshModel
from serving.model_repository import ModelRepository
from serving.native import LIBRARY, NativeError, NativeSignature
from serving.server.errors import LoadError, StatusCode
from serving.server.loaded import LoadedModel
from serving.server.manager import ModelManager
from tests.serving.versions import publish

pytestmark = pytest.mark.slow

State = get_model_status_pb2.ModelVersionStatus


def nothing_but_folders(model: Path) -> None:
    for file in [path for path in model.rglob("*") if path.is_file()]:
        file.unlink()


def no_graph_yet(model: Path) -> None:
    (model / "saved_model.pb").unlink()


def half_a_graph(model: Path) -> None:
    cut(model / "saved_model.pb")


def another_file_as_graph(model: Path) -> None:
    (model / "saved_model.pb").write_text("<html>404 Not Found</html>")


def a_graph_for_training(model: Path) -> None:
    document = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    document.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (model / "saved_model.pb").write_bytes(document.SerializeToString())


def half_of_the_weights(model: Path) -> None:
    cut(next((model / "variables").glob("*.data-*")))


def no_index_of_the_weights_yet(model: Path) -> None:
    (model / "variables" / "variables.index").unlink()


def half_an_index(model: Path) -> None:
    cut(model / "variables" / "variables.index")


def no_vocabularies_yet(model: Path) -> None:
    shutil.rmtree(model / "assets")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = [
    nothing_but_folders, no_graph_yet, half_a_graph, another_file_as_graph, a_graph_for_training, half_of_the_weights,
    no_index_of_the_weights_yet, half_an_index, no_vocabularies_yet,
]  # fmt: skip


def code_of_the_cpp_loader(model: Path, signature: NativeSignature) -> StatusCode | None:
    """What TF Serving's loader says, or the first request where it says nothing."""
    try:
        with FreshModel(Path(tf.__file__).parent / LIBRARY, model, {"serving_default": signature}) as fresh:
            fresh.run("serving_default", {"examples": np.array([b""], dtype=object)})
    except NativeError as error:
        return next(code for code in StatusCode if code.value[0] == error.code)
    return None


@pytest.fixture(scope="module")
def signature(exported):
    document = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    found = document.meta_graphs[0].signature_def["serving_default"]
    return NativeSignature(
        *({name: info.name for name, info in tensors.items()} for tensors in (found.inputs, found.outputs))
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_has_the_code_of_the_loader_of_tf_serving(exported, signature, damage, tmp_path):
    model = shutil.copytree(exported, tmp_path / "model")
    damage(model)
    with pytest.raises(LoadError) as caught:
        LoadedModel(model)
    assert str(model) in str(caught.value) and "Graph execution error" not in str(caught.value)
    assert caught.value.code == code_of_the_cpp_loader(model, signature)


@pytest.mark.parametrize("cut_off, code", [(True, StatusCode.DATA_LOSS), (False, StatusCode.INVALID_ARGUMENT)])
def test_damaged_warm_up_requests_are_named(exported, cut_off, code, tmp_path):
    """The codes of saved_model_warmup_util.cc: of a record that is cut off, and of one that is no PredictionLog."""
    model = shutil.copytree(exported, tmp_path / "model")
    file = model / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"no message")
    if cut_off:
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(LoadError) as caught:
        LoadedModel(model)
    assert str(caught.value) == f"{file}: cannot be read; the file is damaged or half copied"
    assert caught.value.code == code


def test_the_version_in_service_goes_on_and_the_status_tells_why_the_other_does_not(exported, signature, tmp_path):
    repository = ModelRepository(tmp_path / "models", "shop")
    publish(repository, exported)
    manager = ModelManager(repository.path.parent)
    manager.update()
    request = {"examples": tf.make_tensor_proto([b""]).SerializeToString()}

    def answer(**choice) -> tuple[int, float]:
        spec = model_pb2.ModelSpec(name="shop", **choice)
        with manager.find(spec) as servable:
            return servable.version, float(servable.loaded.run("serving_default", request)["pctr"][0])

    before = answer(version_label="stable")
    expected = {}
    # As other tools than this one copy them: into the place where the version is to be.
    for number, damage in enumerate((half_a_graph, no_graph_yet), 2):
        damage(shutil.copytree(exported, repository.path / str(number)))
        expected[number] = code_of_the_cpp_loader(repository.path / str(number), signature)
        repository.promote(number, "copied by hand")
        manager.update()
        assert answer(version_label="stable") == before == answer()
    found = {s.version: s for s in manager.status(model_pb2.ModelSpec(name="shop")).model_version_status}
    assert found[1].state == State.AVAILABLE and found[1].status.error_code == 0
    for number, code in expected.items():
        assert (found[number].state, found[number].status.error_code) == (State.END, code.value[0])
        assert str(repository.path / str(number)) in found[number].status.error_message

    # When the rest of it has come, it goes into service.
    shutil.copytree(exported, repository.path / "3", dirs_exist_ok=True)
    manager.update()
    assert answer(version_label="stable") == (3, before[1])
    manager.close()
