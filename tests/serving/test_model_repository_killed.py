"""200 kills at random moments, of one writer and of one of two: the repository never lacks a model that loads."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("random_kills.py")
KILLS = 200

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    # In memory where that is possible: what a kill leaves is the same, and nothing waits for a disk.
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path_factory.mktemp("kills"))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), folder, str(KILLS), "7"],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    *rounds, end = (json.loads(line) for line in done.stdout.splitlines())
    return rounds, end, done.stderr


def test_kills_hit_every_kind_of_work(killed):
    _, end, _ = killed
    counts = end["counts"]
    assert counts["killed"] >= KILLS
    for what in ("killed: publish and promote", "killed: roll back", "killed: prune", "of two at once", "moved labels"):
        assert counts[what] >= 15, counts
    assert counts["left something aside"] > 0  # some kills came in the middle of a copy


def test_every_version_is_whole_after_every_kill(killed):
    rounds, _, _ = killed
    for found in rounds:
        assert all(found["after"]["versions"].values()), found
        assert all(str(number) in found["after"]["versions"] for number in found["after"]["labels"].values()), found


def test_the_previous_or_the_new_version_is_in_service_after_every_kill(killed):
    rounds, _, _ = killed
    for found in rounds:
        before, after = found["before"], found["after"]
        new = set(map(int, after["versions"])) - set(map(int, before["versions"]))
        allowed = {before["labels"]["stable"]}
        if "publish and promote" in found["works"]:
            allowed |= new
        if "roll back" in found["works"]:
            allowed.add(before["labels"].get("previous"))
        assert after["labels"]["stable"] in allowed, found
        # No content changes its number.
        for number in before["versions"].keys() & after["versions"].keys():
            assert before["versions"][number] == after["versions"][number]


def test_who_was_not_killed_ended_its_work(killed):
    rounds, _, errors = killed
    assert {code for found in rounds for code in found["exits"]} <= {0}, errors


def test_the_next_writer_clears_up_and_the_history_has_no_gap(killed):
    _, end, _ = killed
    versions = {str(number) for number in end["labels"].values()}
    assert set(end["end"]["left"]) == {".lock", "labels.json", "history.jsonl", *versions}
    assert end["end"]["sequences"] == list(range(1, len(end["end"]["sequences"]) + 1))
