"""The crew with a worker that is a few lines of Python."""

import json
import subprocess
import sys
import threading
import time

import pytest

from pipeline.sweep import crew as crew_module
from pipeline.sweep.crew import Crew

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)
    what = job["training"]["what"]
    if what == "die":
        os._exit(7)
    if what == "sleep":
        time.sleep(600)
    if what != "fail":
        open(os.path.join(sys.argv[1], job["key"] + ".json"), "w").write(json.dumps({"pid": os.getpid()}))
    print(json.dumps({"key": job["key"], "error": "no luck" if what == "fail" else None}), flush=True)
"""


class Training:
    def __init__(self, what):
        self.what = what

    def model_dump(self, mode):
        return {"what": self.what}


@pytest.fixture
def work(tmp_path, monkeypatch):
    started = []

    def start(self):
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    monkeypatch.setattr(Crew, "_start", start)

    def make(workers=2):
        told = []
        return Crew(tmp_path, tmp_path, workers=workers, tell=told.append), told, started

    return make


def jobs(*what):
    return {f"k{i}": (Training(w), f"training {i}") for i, w in enumerate(what)}


def test_failures_and_deaths_stop_only_themselves(work, tmp_path):
    crew, told, started = work(workers=1)
    with crew:
        crew.work(jobs("ok", "fail", "die", "ok"), later=2)
        crew.work({"k9": (Training("ok"), "last")})
    assert crew.failures == [("training 1", "no luck"), ("training 2", "the worker ended with exit code 7")]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["k0.json", "k3.json", "k9.json"]
    # A dead worker is replaced, a living one is kept.
    assert len(started) == 2 and all(p.poll() is not None for p in started)
    pids = {name: json.loads((tmp_path / f"{name}.json").read_text())["pid"] for name in ("k0", "k3", "k9")}
    assert pids["k0"] != pids["k3"] == pids["k9"]
    assert [(p.done, p.failed, p.total) for p in told] == [(1, 0, 6), (1, 1, 6), (1, 2, 6), (2, 2, 6), (3, 2, 5)]
    assert told[0].left >= 0 and told[-1].left == 0


def test_what_is_there_is_not_done_again(work, tmp_path):
    (tmp_path / "k0.json").write_text("{}")
    crew, told, _ = work()
    with crew:
        crew.work(jobs("die", "ok"))
    assert crew.failures == [] and (tmp_path / "k0.json").read_text() == "{}"
    assert (told[0].done, told[0].last, told[0].left) == (1, None, None) and told[-1].done == 2


def test_an_interrupt_ends_all_workers_and_starts_none(work, monkeypatch):
    crew, told, started = work()

    def interrupted(self, timeout=None):
        while len(started) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), crew:
        monkeypatch.setattr(crew_module.threading.Thread, "join", interrupted)
        crew.work(jobs("sleep", "sleep", "ok", "ok"))
    monkeypatch.undo()
    end = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(started) == 2 and all(p.poll() is not None for p in started) and told == []
