"""A disk that fills up while a version is published: a real one, of half a megabyte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")
MOUNTING = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def tries(tmp_path_factory):
    probe = "mount -t tmpfs none /mnt"
    if subprocess.run([*MOUNTING, "sh", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts in a namespace of one's own")
    done = subprocess.run(
        [*MOUNTING, sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("full"))],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_full_disk_is_told_and_what_serves_goes_on(tries):
    *failed, last = tries
    assert len(failed) > 15 and last["told"] is None and last["labels"] == {"stable": 2, "previous": 1}
    for one in failed:
        assert "no space left on the disk while p" in one["told"] and "the model in service is as it was" in one["told"]
        assert one["labels"]["stable"] == 1
        assert all(one["whole"].values()) and one["aside"] == []


def test_a_version_that_does_not_fit_leaves_no_file(tries):
    for one in tries[:-1]:
        if "while publishing" in one["told"]:
            assert not one["changed"] and one["labels"] == {"stable": 1} and list(one["whole"]) == ["1"]
