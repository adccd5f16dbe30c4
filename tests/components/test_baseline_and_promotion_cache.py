"""Baseline and Promotion under TFX's own runner and cache."""

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx

from serving.model_repository import ModelRepository
from tests.components.toy_run import toy_run

NODES = ["Baseline", "ToyTrainer", "ToyEvaluator", "Promotion"]


@pytest.fixture
def run(tmp_path):
    seen = 0

    def run_once(content, fingerprint):
        """Runs, and gives the state of each node's execution."""
        nonlocal seen
        tfx.orchestration.LocalDagRunner().run(toy_run(tmp_path, content, fingerprint))
        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = str(tmp_path / "metadata.sqlite")
        executions = sorted(mlmd.MetadataStore(connection).get_executions(), key=lambda e: e.id)[seen:]
        seen += len(executions)
        states = [metadata_store_pb2.Execution.State.Name(e.last_known_state) for e in executions]
        return dict(zip(NODES, states, strict=True))

    return run_once


ALL_DONE = dict.fromkeys(NODES, "COMPLETE")
ALL_CACHED = dict.fromkeys(NODES, "CACHED")


def test_baseline_of_a_run_stays_although_stable_moved(tmp_path, run):
    repository = ModelRepository(tmp_path / "models", "ranker")

    assert run("a", "first") == ALL_DONE
    assert repository.labels() == {"stable": 1}
    # The first run moved `stable`, so a baseline looked up anew would be version 1 and train another candidate.
    assert run("a", "first") == ALL_CACHED
    assert repository.labels() == {"stable": 1}
    assert [v.number for v in repository.versions()] == [1]

    assert run("b", "second") == ALL_DONE
    assert repository.labels() == {"stable": 2, "previous": 1}
    assert (repository.stable().path / "saved_model.pb").read_text() == "ab"  # started from version 1

    assert run("b", "second") == ALL_CACHED
    assert run("a", "first") == ALL_CACHED
    assert repository.labels() == {"stable": 2, "previous": 1}
    assert [h["action"] for h in repository.history()] == ["publish", "promote"] * 2
