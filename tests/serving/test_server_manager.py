"""Which versions are in memory, with a stand-in for the models."""

import contextlib
import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from models.section import UserError
from serving.model_repository import ModelRepository
from serving.server import ServingError
from serving.server.manager import ModelManager
from tests.serving.test_model_repository import saved_model

State = get_model_status_pb2.ModelVersionStatus


class Loaded:
    """A model that says which it is, and whether it was closed."""

    def __init__(self, path: Path):
        content = (path / "saved_model.pb").read_text()
        if content.startswith("bad"):
            raise UserError(f"{path}: cannot be loaded")
        self.path, self.closed = path, False

    def close(self):
        self.closed = True


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "repository", "shop")


@pytest.fixture
def manager(repository):
    return ModelManager(repository.path.parent, Loaded)


@pytest.fixture
def publish(repository, tmp_path):
    def publish(content, promote=True):
        number = repository.publish(saved_model(tmp_path / content, content), reason="")
        if promote:
            repository.promote(number, "")
        return number

    return publish


def spec(label=None, version=None, model="shop"):
    made = model_pb2.ModelSpec(name=model)
    if label is not None:
        made.version_label = label
    if version is not None:
        made.version.value = version
    return made


def answering(manager, **choice):
    with manager.find(spec(**choice)) as servable:
        return servable.version


def states(manager):
    return {s.version: s.state for s in manager.status(spec()).model_version_status}


def test_every_labelled_version_is_in_memory_and_no_other(manager, publish):
    for content in "abc":
        publish(content)
    publish("d", promote=False)
    manager.update()
    assert states(manager) == {4: State.AVAILABLE, 3: State.AVAILABLE, 2: State.AVAILABLE}
    assert [answering(manager, label=label) for label in ("stable", "previous", "candidate")] == [3, 2, 4]
    # As in TF Serving, which may surprise: the highest version, and not the stable one.
    assert answering(manager) == 4
    with pytest.raises(ServingError, match="Specific\\(shop, 1\\)"):
        answering(manager, version=1)


def test_the_newest_of_versions_without_labels_is_in_memory(manager, repository):
    for number in (3, 12):
        saved_model(repository.path / str(number), "a")
    manager.update()
    assert states(manager) == {12: State.AVAILABLE} and answering(manager) == 12
    saved_model(repository.path / "13", "bad")
    manager.update()
    assert states(manager) == {12: State.AVAILABLE, 13: State.END} and answering(manager) == 12


def test_a_label_moves_when_its_version_is_there(manager, publish, repository):
    publish("a")
    manager.update()
    publish("bad")
    manager.update()
    assert repository.labels() == {"stable": 2, "previous": 1}
    assert answering(manager, label="stable") == 1 and answering(manager, label="previous") == 1
    assert "cannot be loaded" in manager.status(spec(version=2)).model_version_status[0].status.error_message
    publish("c")
    manager.update()
    assert answering(manager, label="stable") == 3


def test_a_bad_version_is_tried_again_when_its_files_change(manager, publish, repository):
    tried = []
    manager._load = lambda path: tried.append(path.name) or Loaded(path)
    publish("bad")
    for _ in range(3):
        manager.update()
    assert tried == ["1"]
    (repository.path / "1" / "saved_model.pb").write_text("mended")
    manager.update()
    assert tried == ["1", "1"] and answering(manager, label="stable") == 1


def test_a_version_is_closed_after_its_last_request(manager, publish, repository):
    publish("a")
    manager.update()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        loaded = first.enter_context(manager.find(spec(label="stable"))).loaded
        second.enter_context(manager.find(spec(label="stable")))
        publish("b")
        publish("c")
        manager.update()
        assert states(manager)[1] == State.UNLOADING and not loaded.closed
        first.close()
        assert not loaded.closed
        second.close()
        assert loaded.closed and states(manager)[1] == State.END


def test_a_version_without_requests_is_closed_at_once(manager, publish):
    publish("a")
    manager.update()
    with manager.find(spec(label="stable")) as servable:
        loaded = servable.loaded
    with pytest.raises(KeyError), manager.find(spec(label="stable")):
        raise KeyError
    publish("b")
    publish("c")
    manager.update()
    assert loaded.closed and states(manager)[1] == State.END


def test_what_a_closed_version_leaves_is_freed_without_waiting_for_the_collector(repository, publish):
    """As a graph is: an object that refers to itself, and to memory that Python's collector does not count."""

    class Cycle(Loaded):
        def __init__(self, path):
            super().__init__(path)
            self.itself = self

    manager = ModelManager(repository.path.parent, Cycle)
    gc.disable()
    try:
        publish("a")
        manager.update()
        with manager.find(spec(label="stable")) as servable:
            left = weakref.ref(servable.loaded)
        del servable
        publish("b")
        publish("c")
        manager.update()
        assert left() is None
    finally:
        gc.enable()


def test_requests_find_the_old_version_while_the_new_one_loads(manager, publish):
    publish("a")
    manager.update()
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path):
        begun.set()
        assert go_on.wait(10)
        return Loaded(path)

    manager._load = slowly
    publish("b")
    update = threading.Thread(target=manager.update)
    update.start()
    assert begun.wait(10)
    assert answering(manager, label="stable") == 1 and states(manager)[2] == State.LOADING
    go_on.set()
    update.join()
    assert answering(manager, label="stable") == 2


def test_a_damaged_label_file_leaves_everything_as_it_is(manager, publish, repository, caplog):
    publish("a")
    manager.update()
    (repository.path / "labels.json").write_text("{")
    manager.update()
    assert answering(manager, label="stable") == 1
    assert "labels.json: expected JSON" in caplog.text
    manager.update()
    assert caplog.text.count("expected JSON") == 1  # told once, though it is looked at every second


def test_a_version_whose_folder_is_gone_leaves_the_one_in_service(manager, publish, repository):
    publish("a")
    manager.update()
    publish("b")
    (repository.path / "2").rename(repository.path / ".away")
    manager.update()
    assert answering(manager, label="stable") == 1 and states(manager)[2] == State.END


def test_no_version_is_answered_by_a_closed_model(manager, publish, repository):
    """Requests and label moves at the same time."""
    for content in "ab":
        publish(content)
    manager.update()
    wrong, over = [], threading.Event()

    def ask():
        while not over.is_set():
            with manager.find(spec(label="stable")) as servable:
                if servable.loaded.closed:
                    wrong.append(servable.version)
            time.sleep(0.0001)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    [t.start() for t in threads]
    for content in "cdef":
        publish(content)
        manager.update()
    over.set()
    [t.join() for t in threads]
    assert not wrong
    assert answering(manager, label="stable") == 6
