"""models.config, held against TF Serving's rules: a label needs a loaded version, a served version must not vanish."""

import itertools
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.model_repository import ModelRepository
from serving.tf_serving import apply_in_steps, models_config, steps, write_config
from tests.serving.test_model_repository import saved_model


class TFServing:
    """Its rules for a change of configuration, as its documentation has them."""

    def __init__(self, config):
        self.loaded, self.labels = set(), {}
        self.apply(config, at_start=True)

    def apply(self, config, at_start=False):
        (entry,) = config.model_config_list.config
        wanted = set(entry.model_version_policy.specific.versions)
        for label, number in entry.version_labels.items():
            # Labels are checked against what is loaded before the change.
            assert at_start or number in self.loaded, f"label {label} of version {number}, which is not loaded"
        self.labels = dict(entry.version_labels)
        assert set(self.labels.values()) <= wanted
        gone = self.loaded - wanted
        self.loaded = wanted
        return gone


STATES = [
    {"stable": 1},
    {"stable": 1, "candidate": 2},
    {"stable": 2, "previous": 1},
    {"stable": 3, "previous": 2, "candidate": 4},
    {"stable": 4, "previous": 3},
]


@pytest.mark.parametrize("before, after", itertools.permutations(STATES, 2))
def test_every_move_is_in_steps_that_tf_serving_takes(before, after):
    server = TFServing(models_config("shop", "/models/shop", before))
    assert server.labels == before and server.loaded == set(before.values())
    moves = steps("shop", "/models/shop", before, after)
    for config in moves[:-1]:
        # Nothing that is served goes, and no label moves, before the new versions are there.
        assert not server.apply(config) and server.labels == before
    assert set(after.values()) <= server.loaded
    server.apply(moves[-1])
    assert server.labels == after and server.loaded == set(after.values())
    assert len(moves) == (1 if set(before.values()) == set(after.values()) else 2)


def test_the_file_is_what_tf_serving_reads(tmp_path):
    write_config(models_config("shop", "/models/shop", {"stable": 3, "previous": 2}), tmp_path / "models.config")
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]
    text = (tmp_path / "models.config").read_text()
    found = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (entry,) = found.model_config_list.config
    assert (entry.name, entry.base_path, entry.model_platform) == ("shop", "/models/shop", "tensorflow")
    assert list(entry.model_version_policy.specific.versions) == [2, 3]
    assert dict(entry.version_labels) == {"stable": 3, "previous": 2}


def test_a_rollback_is_written_in_two_steps_where_a_version_comes_back(tmp_path):
    repository = ModelRepository(tmp_path / "repository", "shop")
    for content in "abc":
        repository.promote(repository.publish(saved_model(tmp_path / content, content), reason=""), "")
    before = repository.labels()
    repository.promote(1, "back to the first")
    started = time.monotonic()
    apply_in_steps(repository, before, tmp_path / "models.config", "/models/shop", wait=0.2)
    assert time.monotonic() - started >= 0.2
    found = text_format.Parse((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (entry,) = found.model_config_list.config
    assert dict(entry.version_labels) == {"stable": 1, "previous": 3}
