import json
import os
from pathlib import Path

import pytest
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.baseline import Baseline, baseline_version, has_model, statistics_file
from components.baseline.executor import Executor
from models.section import UserError
from serving.model_repository import ModelRepository
from tests.components.toy_artifacts import artifact


def saved_model(folder: Path, content: str) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(content)
    (folder / "variables/variables.index").write_text(content * 2)
    return folder


def run(tmp_path, name="model"):
    model = artifact(standard_artifacts.Model, tmp_path / name)
    Executor().Do({}, {"model": [model]}, {"repository": str(tmp_path / "repository"), "model_name": "ranker"})
    return model


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "repository", "ranker")


def test_without_a_model_in_service_it_says_so(tmp_path, repository):
    model = run(tmp_path)
    assert not has_model(model.uri)
    assert baseline_version(model.uri) is None
    assert statistics_file(model.uri) is None
    assert (tmp_path / "model/NO_MODEL_IN_SERVICE").exists()
    assert model.get_int_custom_property("version") == 0
    # What TFX's Trainer passes on as base_model is a path that is not there.
    assert not os.path.exists(path_utils.serving_model_path(model.uri))


def test_a_candidate_is_not_a_baseline(tmp_path, repository):
    repository.publish(saved_model(tmp_path / "a", "a"), reason="")
    assert not has_model(run(tmp_path).uri)


def test_model_in_service_is_copied_without_space(tmp_path, repository):
    statistics = tmp_path / "FeatureStats.pb"
    statistics.write_bytes(b"\x01")
    for content in "ab":
        source = saved_model(tmp_path / content, content)
        version = repository.publish(source, reason="", extra={"statistics/FeatureStats.pb": statistics})
        repository.promote(version, "")
    model = run(tmp_path)

    assert has_model(model.uri)
    assert baseline_version(model.uri) == 2
    assert model.get_int_custom_property("version") == 2
    assert Path(statistics_file(model.uri)).read_bytes() == b"\x01"
    assert not (tmp_path / "model/NO_MODEL_IN_SERVICE").exists()
    copy = Path(path_utils.serving_model_path(model.uri))
    assert (copy / "saved_model.pb").read_text() == "b"
    assert (copy / "variables/variables.index").samefile(repository.path / "2/variables/variables.index")


def test_copies_where_links_are_impossible(tmp_path, repository, monkeypatch):
    repository.promote(repository.publish(saved_model(tmp_path / "a", "a"), reason=""), "")

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copy = Path(path_utils.serving_model_path(run(tmp_path).uri))
    assert (copy / "variables/variables.index").read_text() == "aa"
    assert not (copy / "saved_model.pb").samefile(repository.path / "1/saved_model.pb")


def test_label_without_its_version_stops_the_run(tmp_path, repository):
    repository.promote(repository.publish(saved_model(tmp_path / "a", "a"), reason=""), "")
    (repository.path / "1").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="'stable' is version 1, but .* is missing"):
        run(tmp_path)


def test_every_field_of_the_window_is_a_parameter_of_its_own():
    window = {"first_day": "2026-01-01", "first_eval_day": "2026-01-04", "last_day": "2026-01-04", "data_end_ms": "17"}
    baseline = Baseline(repository="/r", model_name="ranker", **window, fingerprint="f")
    assert baseline.exec_properties == {"repository": "/r", "model_name": "ranker", **window, "fingerprint": "f"}
    assert json.dumps(sorted(baseline.outputs)) == '["model"]'
