"""The commands around a served model."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2
from typer.testing import CliRunner

from pipeline.cli import app
from serving.model_repository import ModelRepository
from tests.serving.test_client import Scripted
from tests.serving.test_model_repository import saved_model


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def run_folder(tmp_path):
    """A run with two promoted versions of 'shop'."""
    repository = ModelRepository(tmp_path / "run" / "models", "shop")
    for content in "ab":
        repository.promote(repository.publish(saved_model(tmp_path / content, content), reason=""), "better")
    return tmp_path / "run"


def test_rollback_moves_the_labels_and_says_so(run_folder):
    result = call("rollback", "--root", run_folder, "--reason", "too slow")
    assert result.exit_code == 0, result.output
    assert "shop: version 1 is in service again, version 2 is 'previous'" in result.output
    repository = ModelRepository(run_folder / "models", "shop")
    assert repository.labels() == {"stable": 1, "previous": 2}
    assert repository.history()[-1]["reason"] == "too slow"


def test_the_configuration_of_tf_serving(run_folder, tmp_path):
    file = tmp_path / "new" / "models.config"
    result = call("models-config", "--root", run_folder, "--out", file, "--base-path", "/models/shop")
    assert result.exit_code == 0, result.output
    assert "version(s) 1, 2 in memory; previous is version 1, stable is version 2" in result.output
    config = text_format.Parse(file.read_text(), model_server_config_pb2.ModelServerConfig())
    (entry,) = config.model_config_list.config
    assert dict(entry.version_labels) == {"stable": 2, "previous": 1} and entry.base_path == "/models/shop"


def test_the_labels_of_a_tf_serving_that_is_not_there_stay(run_folder, tmp_path):
    file = tmp_path / "models.config"
    place = ["--root", run_folder, "--out", file]
    assert call("models-config", *place).exit_code == 0
    call("rollback", "--root", run_folder)
    before = file.read_text()
    result = call("models-config", *place, "--server", "127.0.0.1:1", "--poll", 0.05, "--wait", 0.1)
    assert result.exit_code == 1 and "expected [1, 2] of 'shop' in memory within 0.1 s" in result.output
    assert file.read_text() == before
    result = call("models-config", *place, "--follow")
    assert result.exit_code == 1 and "--follow: expected --server" in result.output


def test_rollback_without_a_version_before(tmp_path):
    repository = ModelRepository(tmp_path / "models", "shop")
    repository.promote(repository.publish(saved_model(tmp_path / "a"), reason=""), "first")
    result = call("rollback", "--root", tmp_path)
    assert result.exit_code == 1 and "expected a version labelled 'previous'" in result.output


def test_the_model_is_named_where_there_are_several(run_folder, tmp_path):
    other = ModelRepository(run_folder / "models", "other")
    other.publish(saved_model(tmp_path / "c"), reason="")
    result = call("rollback", "--root", run_folder)
    assert result.exit_code == 1 and "expected one of the models" in result.output
    assert "(other, shop), got none" in " ".join(result.output.split())
    assert call("rollback", "--root", run_folder, "--model", "shop").exit_code == 0


def test_a_repository_without_a_model_is_told(tmp_path):
    result = call("rollback", "--root", tmp_path)
    assert result.exit_code == 1
    assert "expected a model with versions, found none; `seesaw run` puts the first one there" in result.output


def test_canary_sets_the_share_of_the_candidate(run_folder, tmp_path):
    repository = ModelRepository(run_folder / "models", "shop")
    result = call("canary", "--root", run_folder, "--share", 0.05)
    assert result.exit_code == 1 and "expected a version labelled 'candidate'" in result.output
    repository.publish(saved_model(tmp_path / "c", "c"), reason="")
    result = call("canary", "--root", run_folder, "--share", 0.05, "--reason", "a trial")
    assert result.exit_code == 0 and "shop: 0.05 of the traffic is to get version 3" in result.output
    assert repository.canary() == 0.05 and repository.history()[-1]["reason"] == "a trial"


def test_prune_removes_what_has_no_label(run_folder, tmp_path):
    repository = ModelRepository(run_folder / "models", "shop")
    repository.promote(repository.publish(saved_model(tmp_path / "c", "c"), reason=""), "better")
    result = call("prune", "--root", run_folder, "--keep", 0)
    assert result.exit_code == 0 and "shop: removed version(s) 1" in result.output
    assert [v.number for v in repository.versions()] == [2, 3]
    assert "removed version(s) none" in call("prune", "--root", run_folder).output


def test_loadtest_tells_latencies_and_errors_and_draws_them(tmp_path):
    servicer = Scripted()
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    rates = ["--rate", 40, "--rate", 80, "--candidates", 7, "--seconds", 0.5]
    result = call("loadtest", "--address", address, "--model", "shop", *rates, "--out", tmp_path / "load.png")
    server.stop(0).wait()
    assert result.exit_code == 0, result.output
    assert len(servicer.requests) == 1 + 20 + 40
    assert all(len(r.inputs["item"].string_val) == 7 for r in servicer.requests)
    lines = [line.split() for line in result.output.splitlines()]
    assert [line[:2] for line in lines if line[-1:] == ["0"]] == [["40", "7"], ["80", "7"]]
    assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"


def test_loadtest_without_a_server(tmp_path):
    result = call("loadtest", "--address", "127.0.0.1:1", "--timeout", 1, "--out", tmp_path / "load.png")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "UNAVAILABLE" in result.output or "DEADLINE_EXCEEDED" in result.output
