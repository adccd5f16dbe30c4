"""models.config, held against TF Serving's rules: a label needs a loaded version, a served version must not vanish."""

import itertools

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from models.section import UserError
from serving.model_repository import ModelRepository
from serving.tf_serving import LabelFollower, loaded_versions, models_config, next_config, read_config, write_config
from tests.serving.fake_tf_serving import FakeTFServing

STATES = [
    {"stable": 1},
    {"stable": 1, "candidate": 2},
    {"stable": 2, "previous": 1},
    {"stable": 3, "previous": 2, "candidate": 4},
    {"stable": 4, "previous": 3},
]


class Labels(ModelRepository):
    """A repository with versions 1 to 4 and labels of one's choice."""

    def __init__(self, root, labels):
        super().__init__(root, "shop")
        self.now = labels
        for number in range(1, 5):
            (self.path / str(number)).mkdir(parents=True, exist_ok=True)

    def labels(self):
        return dict(self.now)


@pytest.fixture
def server(tmp_path):
    started = []

    def start(before):
        write_config(models_config("shop", "/models/shop", before), tmp_path / "models.config")
        server = FakeTFServing(tmp_path / "models.config")
        server.start()
        started.append(server)
        return server

    yield start
    for s in started:
        s.stop()


@pytest.mark.parametrize("before, after", itertools.permutations(STATES, 2))
def test_every_move_is_in_steps_that_tf_serving_takes(tmp_path, server, before, after):
    server = server(before)
    follower = LabelFollower(Labels(tmp_path, after), server.path, "/models/shop", server.address)
    written = 0
    while follower.step():
        written += 1
        gone = server.loaded - set(after.values())
        server.reload()
        if not follower.arrived:
            # Nothing that is served goes, and no label moves, before the new versions are there.
            assert server.labels == before and gone <= server.loaded
            assert follower.step() is None
            server.load()
    assert follower.arrived and server.labels == after and server.wanted == set(after.values())
    assert written == (1 if set(after.values()) <= set(before.values()) else 2)


def test_a_version_that_cannot_be_loaded_moves_no_label_until_another_is_wanted(tmp_path, server):
    server = server({"stable": 1})
    repository = Labels(tmp_path, {"stable": 2, "previous": 1})
    follower = LabelFollower(repository, server.path, "/models/shop", server.address)
    assert follower.step() and server.reload() and server.labels == {"stable": 1}
    assert follower.step() is None and not follower.arrived
    repository.now = {"stable": 3, "previous": 1}
    assert follower.step() and server.reload() and server.wanted == {1, 3}
    server.load()
    assert follower.step() and server.reload() and server.labels == {"stable": 3, "previous": 1}


def test_who_comes_back_goes_on_from_the_file(tmp_path, server):
    """A follower that was killed between the steps has a successor that knows where the labels are."""
    server = server({"stable": 1})
    repository = Labels(tmp_path, {"stable": 2, "previous": 1})
    LabelFollower(repository, server.path, "/models/shop", server.address).step()
    server.reload()
    follower = LabelFollower(repository, server.path, "/models/shop", server.address)
    assert follower.step() is None
    server.load()
    assert follower.step() and server.reload() and server.labels == {"stable": 2, "previous": 1}


def test_nothing_moves_while_tf_serving_does_not_answer(tmp_path):
    repository = Labels(tmp_path, {"stable": 2, "previous": 1})
    before = models_config("shop", "/models/shop", {"stable": 1})
    assert loaded_versions("127.0.0.1:1", "shop") is None
    assert next_config(repository, "/models/shop", before, None) is None
    # It could not start with a version that is gone.
    gone = models_config("shop", "/models/shop", {"stable": 9})
    last = models_config("shop", "/models/shop", repository.labels())
    assert next_config(repository, "/models/shop", gone, None) == last
    assert next_config(repository, "/models/shop", None, None) == last
    assert next_config(Labels(tmp_path, {}), "/models/shop", None, None) is None


def test_the_file_is_what_tf_serving_reads(tmp_path):
    write_config(models_config("shop", "/models/shop", {"stable": 3, "previous": 2}), tmp_path / "models.config")
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]
    text = (tmp_path / "models.config").read_text()
    found = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert found == read_config(tmp_path / "models.config")
    (entry,) = found.model_config_list.config
    assert (entry.name, entry.base_path, entry.model_platform) == ("shop", "/models/shop", "tensorflow")
    assert list(entry.model_version_policy.specific.versions) == [2, 3]
    assert dict(entry.version_labels) == {"stable": 3, "previous": 2}


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "models.config").write_text("model: shop\n")
    with pytest.raises(UserError, match="models.config: expected a configuration of TF Serving's models"):
        read_config(tmp_path / "models.config")
    assert read_config(tmp_path / "none.config") is None
