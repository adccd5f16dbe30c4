from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from models.section import UserError
from pipeline.run_folder import LOCK_FILE, RootInUse, RunFolder, captured_output

REPOSITORY = Path(__file__).parents[2]

PRINTING = """
import logging, os, sys, warnings
from pathlib import Path
from pipeline.run_folder import captured_output

class Late:
    def __del__(self):
        raise RuntimeError("printed by a destructor at the end")

keep = Late()
print("before")
with captured_output(Path(sys.argv[1]), verbose=sys.argv[2] == "verbose") as console:
    print("from Python")
    os.write(2, b"from C++\\n")
    os.system("echo from a child process")
    logging.getLogger("tfx").info("from logging")
    warnings.warn("from warnings")
    console.write("for the user\\n")
    print("the last line", end="")
print("after")
logging.getLogger("tfx").info("not shown")
"""
CAPTURED = ["from Python", "from C++", "from a child process", "from logging", "from warnings", "the last line"]


def run_printing(tmp_path: Path, mode: str) -> tuple[subprocess.CompletedProcess, str]:
    log = tmp_path / "run.log"
    done = subprocess.run(
        [sys.executable, "-c", PRINTING, str(log), mode],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done, log.read_text()


def test_everything_printed_goes_to_the_log(tmp_path):
    done, log = run_printing(tmp_path, "quiet")
    assert done.stdout == "before\nfor the user\nafter\n"
    assert done.stderr == ""
    assert [text for text in CAPTURED if text not in log] == []
    assert "printed by a destructor" in log
    assert "for the user" not in log
    # In the order in which it happened, whoever printed it.
    assert log.index("from Python") < log.index("from C++") < log.index("from logging") < log.index("the last line")


def test_verbose_shows_it_as_well(tmp_path):
    done, log = run_printing(tmp_path, "verbose")
    assert done.stdout == "before\nfor the user\nafter\n"
    for text in CAPTURED:
        assert text in log
        assert text in done.stderr


def test_what_was_there_before_is_put_back(tmp_path, capfd):
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    with pytest.raises(ZeroDivisionError), captured_output(tmp_path / "run.log"):
        os.write(1, b"inside\n")
        raise ZeroDivisionError
    os.write(1, b"outside\n")
    assert capfd.readouterr().out == "outside\n"
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("shown", stacklevel=1)
    assert len(caught) == 1


def test_one_run_at_a_time(tmp_path):
    with RunFolder(tmp_path) as first:
        assert first.logs == tmp_path / "logs" / first.run_id
        assert first.logs.is_dir()
        with (
            pytest.raises(RootInUse, match=rf"process {os.getpid()}, run {first.run_id}") as caught,
            RunFolder(tmp_path),
        ):
            pass
        assert "--root" in str(caught.value)
        with RunFolder(tmp_path / "another"):
            pass
    with RunFolder(tmp_path):
        pass


def test_lock_file_of_a_dead_run_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"pid": 1, "run": "2026-01-01T00-00-00.000"}')
    with RunFolder(tmp_path):
        pass


def test_unreadable_holder(tmp_path):
    with RunFolder(tmp_path):
        (tmp_path / LOCK_FILE).write_text("")
        with pytest.raises(RootInUse, match="its process id is not written yet"), RunFolder(tmp_path):
            pass


def test_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: expected a folder that can be written"), RunFolder(tmp_path / "file"):
        pass
