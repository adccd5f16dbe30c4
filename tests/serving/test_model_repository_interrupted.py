import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interrupted_publish.py")


@pytest.fixture(scope="module", params=["kill", "full"])
def interrupted(request, tmp_path_factory):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp(request.param)), request.param],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return request.param, [json.loads(line) for line in done.stdout.splitlines()]


def test_every_step_was_interrupted(interrupted):
    how, steps = interrupted
    assert len(steps) >= 25
    assert [s["killed"] for s in steps] == [how == "kill"] * len(steps)
    if how == "full":
        # Once the labels have moved, a full disk only holds up the line of history.
        moved = [s["labels"].get("stable") == 2 for s in steps]
        assert moved == sorted(moved)
        for s, done in zip(steps, moved):
            assert done or "no space left on the disk" in s["error"]


def test_a_model_is_in_service_after_every_step(interrupted):
    _, steps = interrupted
    stable = [s["labels"]["stable"] for s in steps]
    assert stable == sorted(stable) and set(stable) == {1, 2}
    for s in steps:
        assert s["labels"] in ({"stable": 1}, {"stable": 1, "candidate": 2}, {"stable": 2, "previous": 1})


def test_versions_are_whole_after_every_step(interrupted):
    _, steps = interrupted
    for s in steps:
        assert s["versions"] in ({"1": "aa"}, {"1": "aa", "2": "bb"})
        assert all(str(version) in s["versions"] for version in s["labels"].values())


def test_a_full_disk_leaves_nothing_aside(interrupted):
    how, steps = interrupted
    if how == "full":
        assert [s["aside"] for s in steps] == [[]] * len(steps)
    else:
        assert any(s["aside"] for s in steps)


def test_the_next_run_ends_as_an_uninterrupted_one(interrupted):
    _, steps = interrupted
    for s in steps:
        assert s["resumed"] == {
            "labels": {"stable": 2, "previous": 1},
            "versions": [1, 2],
            "aside": [],
            "history": [[1, "publish", 1], [2, "promote", 1], [3, "publish", 2], [4, "promote", 2]],
        }
