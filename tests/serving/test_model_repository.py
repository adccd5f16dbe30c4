import errno
import json
import os
import threading
from pathlib import Path

import pytest

from models.section import UserError
from serving import model_repository
from serving.model_repository import ModelRepository, ServiceChanged, Version, content_hash


def saved_model(folder: Path, content: str = "graph") -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "assets.extra/seesaw").mkdir(parents=True)
    (folder / "assets.extra/seesaw/model.json").write_text("{}")
    (folder / "saved_model.pb").write_text(content)
    (folder / "variables" / "variables.index").write_text(content * 2)
    return folder


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "repository", "ranker")


def publish(repository, tmp_path, content):
    folder = tmp_path / f"saved-{content}"
    if not folder.exists():
        saved_model(folder, content)
    return repository.publish(folder, reason=f"run of {content}")


def names(repository):
    return sorted(path.name for path in repository.path.iterdir())


def test_empty_repository_has_nothing_and_writes_nothing(repository):
    assert repository.versions() == ()
    assert repository.labels() == {}
    assert repository.stable() is None
    assert repository.history() == []
    assert not repository.path.exists()


def test_published_version_is_a_whole_copy_and_a_candidate(repository, tmp_path):
    source = saved_model(tmp_path / "saved", "a")
    statistics = tmp_path / "FeatureStats.pb"
    statistics.write_bytes(b"\x01\x02")

    number = repository.publish(
        source, reason="first", metadata={"window": "2026-01-01"}, extra={"statistics/FeatureStats.pb": statistics}
    )

    assert number == 1
    assert repository.versions() == (Version(1, repository.path / "1"),)
    version = repository.path / "1"
    assert (version / "saved_model.pb").read_text() == "a"
    assert (version / "variables/variables.index").read_text() == "aa"
    assert (version / "assets").is_dir()
    assert (version / "assets.extra/seesaw/model.json").read_text() == "{}"
    assert (version / "assets.extra/seesaw/published/statistics/FeatureStats.pb").read_bytes() == b"\x01\x02"
    details = repository.versions()[0].details
    assert details["metadata"] == {"window": "2026-01-01"}
    assert details["source"] == content_hash(source) == content_hash(version)
    assert repository.labels() == {"candidate": 1}
    assert repository.stable() is None
    assert names(repository) == [".lock", "1", "history.jsonl", "labels.json"]


def test_other_users_may_read_a_version(repository, tmp_path):
    publish(repository, tmp_path, "a")
    umask = os.umask(0)
    os.umask(umask)
    assert (repository.path / "1").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (repository.path / "1/saved_model.pb").stat().st_mode & 0o777 == 0o666 & ~umask


def test_labels_and_history_over_two_promotions(repository, tmp_path):
    assert publish(repository, tmp_path, "a") == 1
    assert repository.promote(1, "no model in service", replacing=None)
    assert repository.labels() == {"stable": 1}
    assert publish(repository, tmp_path, "b") == 2
    assert repository.labels() == {"stable": 1, "candidate": 2}
    assert repository.promote(2, "better", replacing=1)
    assert repository.labels() == {"stable": 2, "previous": 1}
    assert repository.stable() == Version(2, repository.path / "2")

    history = repository.history()
    assert [(h["sequence"], h["action"], h["version"], h["reason"]) for h in history] == [
        (1, "publish", 1, "run of a"),
        (2, "promote", 1, "no model in service"),
        (3, "publish", 2, "run of b"),
        (4, "promote", 2, "better"),
    ]
    assert [h["labels"].get("stable") for h in history] == [None, 1, 1, 2]
    assert [h["time"] for h in history] == sorted(h["time"] for h in history)


def test_same_model_is_published_and_promoted_once(repository, tmp_path):
    publish(repository, tmp_path, "a")
    repository.promote(1, "first")
    before = repository.history()

    assert publish(repository, tmp_path, "a") == 1
    assert repository.promote(1, "again") is False
    assert repository.labels() == {"stable": 1}
    assert repository.history() == before
    assert [v.number for v in repository.versions()] == [1]


def test_same_source_is_the_same_version_whatever_the_bytes(repository, tmp_path):
    a, b = saved_model(tmp_path / "x", "a"), saved_model(tmp_path / "y", "b")
    assert repository.publish(a, reason="", source="run 7") == repository.publish(b, reason="", source="run 7") == 1


def test_republishing_a_version_without_a_label_makes_it_the_candidate(repository, tmp_path):
    publish(repository, tmp_path, "a")
    publish(repository, tmp_path, "b")
    assert repository.labels() == {"candidate": 2}
    assert publish(repository, tmp_path, "a") == 1
    assert repository.labels() == {"candidate": 1}


def test_going_back_to_an_earlier_version(repository, tmp_path):
    for content in "ab":
        repository.promote(publish(repository, tmp_path, content), "better")
    assert repository.promote(1, "2 is slow")
    assert repository.labels() == {"stable": 1, "previous": 2}


def test_promotion_decided_against_another_model_changes_nothing(repository, tmp_path):
    repository.promote(publish(repository, tmp_path, "a"), "first")
    publish(repository, tmp_path, "b")
    before = (repository.path / "labels.json").read_bytes()
    with pytest.raises(ServiceChanged, match="expected none, found version 1") as caught:
        repository.promote(2, "better", replacing=None)
    assert caught.value.stable == 1
    assert (repository.path / "labels.json").read_bytes() == before


def test_promotion_that_already_happened_is_not_a_change(repository, tmp_path):
    repository.promote(publish(repository, tmp_path, "a"), "first", replacing=None)
    assert repository.promote(1, "first", replacing=None) is False


def test_numbers_are_not_used_again(repository, tmp_path):
    publish(repository, tmp_path, "a")
    publish(repository, tmp_path, "b")
    for file in sorted((repository.path / "2").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (repository.path / "2").rmdir()
    assert publish(repository, tmp_path, "c") == 3


def test_only_integers_are_versions(repository, tmp_path):
    publish(repository, tmp_path, "a")
    for name in ("12", "007", "-3", "tmp", ".publish-live"):
        (repository.path / name).mkdir()
    assert [v.number for v in repository.versions()] == [1, 12]
    assert repository.versions()[1].details == {}
    assert publish(repository, tmp_path, "b") == 13


def test_leftovers_of_a_killed_writer_go_and_those_of_a_live_one_stay(repository, tmp_path):
    publish(repository, tmp_path, "a")
    dead, live = repository.path / ".publish-dead", repository.path / ".publish-live"
    for folder in (dead, live):
        (folder / "variables").mkdir(parents=True)
    claim = model_repository._claim(live)
    repository.promote(1, "first")
    assert not dead.exists() and live.exists()
    os.close(claim)
    publish(repository, tmp_path, "b")
    assert not live.exists()


@pytest.mark.parametrize("torn", ["", '{"sequence": 2, "ti'])
def test_history_is_completed_from_the_labels(repository, tmp_path, torn):
    publish(repository, tmp_path, "a")
    first = (repository.path / "history.jsonl").read_text()
    repository.promote(1, "first")
    whole = (repository.path / "history.jsonl").read_text()
    (repository.path / "history.jsonl").write_text(first + torn)
    assert [h["sequence"] for h in repository.history()] == [1]

    assert repository.promote(1, "again") is False
    assert (repository.path / "history.jsonl").read_text() == whole


def test_two_writers_publish_different_models_at_once(repository, tmp_path):
    sources = [saved_model(tmp_path / str(i), f"model {i}") for i in range(8)]
    numbers, start = {}, threading.Barrier(len(sources))

    def work(i):
        start.wait()
        mine = ModelRepository(repository.path.parent, "ranker")
        numbers[i] = mine.publish(sources[i], reason=str(i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sources))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(numbers.values()) == list(range(1, 9))
    for i, number in numbers.items():
        assert (repository.path / str(number) / "saved_model.pb").read_text() == f"model {i}"
    assert [h["sequence"] for h in repository.history()] == list(range(1, 9))
    assert repository.labels() == {"candidate": 8}
    assert names(repository) == sorted([".lock", "history.jsonl", "labels.json", *map(str, range(1, 9))])


def test_two_writers_publish_the_same_model_at_once(repository, tmp_path):
    source, start, numbers = saved_model(tmp_path / "saved"), threading.Barrier(4), []

    def work():
        start.wait()
        numbers.append(ModelRepository(repository.path.parent, "ranker").publish(source, reason="same"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert numbers == [1, 1, 1, 1]
    assert [v.number for v in repository.versions()] == [1]


def test_one_of_two_promotions_against_the_same_baseline_wins(repository, tmp_path):
    repository.promote(publish(repository, tmp_path, "a"), "first")
    candidates = [publish(repository, tmp_path, content) for content in "bc"]
    outcomes, start = [], threading.Barrier(2)

    def work(number):
        start.wait()
        try:
            outcomes.append(ModelRepository(repository.path.parent, "ranker").promote(number, "", replacing=1))
        except ServiceChanged:
            outcomes.append("kept")

    threads = [threading.Thread(target=work, args=(n,)) for n in candidates]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(map(str, outcomes)) == ["True", "kept"]
    assert repository.labels()["previous"] == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("file", ["saved_model.pb", "version.json", ".labels.json"])
def test_full_disk_is_told_and_leaves_everything_as_it_was(repository, tmp_path, monkeypatch, code, file):
    repository.promote(publish(repository, tmp_path, "a"), "first")
    before = (repository.path / "labels.json").read_bytes()
    real = os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left on the disk while publishing .*saved-b"):
        publish(repository, tmp_path, "b")
    monkeypatch.undo()

    assert (repository.path / "labels.json").read_bytes() == before
    assert names(repository) == [".lock", "1", "history.jsonl", "labels.json"]
    assert publish(repository, tmp_path, "b") == 2
    assert repository.labels() == {"stable": 1, "candidate": 2}


def test_promotion_stands_when_its_line_of_history_has_no_space(repository, tmp_path, monkeypatch):
    publish(repository, tmp_path, "a")
    real = os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("history.jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert repository.promote(1, "first")
    (repository.path / "history.jsonl").write_text("")
    with pytest.raises(UserError, match="no space left"):  # no change before the last one is in the history
        publish(repository, tmp_path, "b")
    assert repository.labels() == {"stable": 1}
    monkeypatch.undo()
    publish(repository, tmp_path, "b")
    assert [h["version"] for h in repository.history()] == [1, 2]


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(repository, tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "broken")

    source = saved_model(tmp_path / "saved")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        repository.publish(source, reason="")


def test_errors_name_what_was_expected_and_what_came(repository, tmp_path):
    with pytest.raises(UserError, match="expected a SavedModel, found no saved_model.pb in .*nothing"):
        repository.publish(tmp_path / "nothing", reason="")
    publish(repository, tmp_path, "a")
    with pytest.raises(UserError, match=r"has no version 9; it has \[1\]"):
        repository.promote(9, "")
    for root, model, message in [
        ("gs://bucket/models", "ranker", "mounted file system, got 'gs://bucket/models'"),
        (tmp_path, "a/b", "model name without '/'.*got 'a/b'"),
        (tmp_path, "", "got ''"),
    ]:
        with pytest.raises(UserError, match=message):
            ModelRepository(root, model)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "labels.json: expected JSON"),
        ("[1]", "labels.json: expected an object with labels and 'change'"),
        (json.dumps({"stable": "1", "change": {"sequence": 1}}), "'stable': expected the number of a version, got '1'"),
    ],
)
def test_damaged_labels_are_refused_not_overwritten(repository, tmp_path, text, message):
    publish(repository, tmp_path, "a")
    (repository.path / "labels.json").write_text(text)
    with pytest.raises(UserError, match=message):
        repository.labels()
    with pytest.raises(UserError, match=message):
        repository.promote(1, "")
    assert (repository.path / "labels.json").read_text() == text


def test_label_of_a_missing_version_is_an_error(repository, tmp_path):
    repository.promote(publish(repository, tmp_path, "a"), "first")
    (repository.path / "1").rename(repository.path / "elsewhere")
    with pytest.raises(UserError, match="'stable' is version 1, but .* is missing"):
        repository.stable()


def test_rollback_puts_the_version_before_back_in_service(repository, tmp_path):
    for content in "ab":
        repository.promote(publish(repository, tmp_path, content), "better")
    publish(repository, tmp_path, "c")
    assert repository.rollback("too slow") == (2, 1)
    assert repository.labels() == {"stable": 1, "previous": 2, "candidate": 3}
    last = repository.history()[-1]
    assert (last["action"], last["version"], last["reason"]) == ("rollback", 1, "too slow")
    assert repository.rollback("it was the network") == (1, 2)
    assert repository.labels() == {"stable": 2, "previous": 1, "candidate": 3}


def test_rollback_needs_a_version_to_go_back_to(repository, tmp_path):
    with pytest.raises(UserError, match="expected a version labelled 'previous'"):
        repository.rollback("")
    repository.promote(publish(repository, tmp_path, "a"), "first")
    with pytest.raises(UserError, match="expected a version labelled 'previous'"):
        repository.rollback("")
    repository.promote(publish(repository, tmp_path, "b"), "second")
    (repository.path / "1").rename(repository.path / ".gone")
    with pytest.raises(UserError, match="version 1, which was in service before, is gone"):
        repository.rollback("")
    assert repository.labels() == {"stable": 2, "previous": 1}


@pytest.mark.parametrize("keep, removed", [(0, (1, 2)), (1, (1,)), (2, ()), (9, ())])
def test_garbage_is_what_has_no_label_and_is_old(repository, tmp_path, keep, removed):
    for content in "abcd":
        repository.promote(publish(repository, tmp_path, content), "better")
    publish(repository, tmp_path, "e")
    assert repository.labels() == {"stable": 4, "previous": 3, "candidate": 5}
    assert repository.collect_garbage(keep) == removed
    assert [v.number for v in repository.versions()] == [n for n in range(1, 6) if n not in removed]
    assert names(repository) == sorted(
        [".lock", "history.jsonl", "labels.json", *(str(n) for n in range(1, 6) if n not in removed)]
    )
    assert repository.collect_garbage(keep) == ()
    # The numbers of what was removed are not used again.
    assert publish(repository, tmp_path, "f") == 6


def test_garbage_that_was_left_half_removed_goes_next_time(repository, tmp_path, monkeypatch):
    for content in "abc":
        repository.promote(publish(repository, tmp_path, content), "better")

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(model_repository.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        repository.collect_garbage(0)
    monkeypatch.undo()
    assert [v.number for v in repository.versions()] == [2, 3]
    assert repository.collect_garbage(0) == ()
    assert not list(repository.path.glob(".publish-*"))


def test_keep_is_checked(repository):
    with pytest.raises(UserError, match="keep: expected at least 0 versions, got -1"):
        repository.collect_garbage(-1)
