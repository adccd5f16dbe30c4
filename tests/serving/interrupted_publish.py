"""Publishes and promotes in child processes that stop before their n-th step on the file system, for every n.

A script of its own, so that the forks start from a small process with one thread.
Usage: python interrupted_publish.py FOLDER kill|full; prints one JSON line per step.
"""

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from models.section import UserError
from serving.model_repository import ModelRepository

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def saved_model(folder: Path, content: str) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(content)
    (folder / "variables" / "variables.index").write_text(content * 2)
    return folder


def stop_at(step: int, how: str) -> list[str]:
    """From now on, dies (or finds the disk full) before the step-th change to the file system."""
    taken: list[str] = []

    def count(what: str) -> None:
        taken.append(what)
        if how == "kill" and len(taken) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "full" and len(taken) >= step and what not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def hook(event: str, arguments: tuple) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count(event)

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        count("os.fsync")
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    return taken


def publish_and_promote(repository: ModelRepository, source: Path) -> None:
    repository.promote(repository.publish(source, reason="second"), "better", replacing=1)


def in_child(step: int, how: str, repository: ModelRepository, source: Path) -> tuple[int, dict]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        taken = stop_at(step, how)
        outcome = {"error": None}
        try:
            publish_and_promote(repository, source)
        except UserError as error:
            outcome["error"] = str(error)
        os.write(writer, json.dumps({**outcome, "steps": len(taken)}).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return status, json.loads(said) if said else {}


def main(folder: Path, how: str) -> None:
    first, second = saved_model(folder / "a", "a"), saved_model(folder / "b", "b")
    begin = ModelRepository(folder / "begin", "ranker")
    begin.promote(begin.publish(first, reason="first"), "first")
    copy = ModelRepository(shutil.copytree(folder / "begin", folder / "whole"), "ranker")
    _, whole = in_child(-1, "kill", copy, second)
    for step in range(1, whole["steps"] + 1):
        root = shutil.copytree(folder / "begin", folder / f"step-{step}")
        repository = ModelRepository(root, "ranker")
        status, said = in_child(step, how, repository, second)
        found = {
            "step": step,
            "killed": os.WIFSIGNALED(status),
            "error": said.get("error"),
            "labels": repository.labels(),
            "versions": {v.number: (v.path / "variables/variables.index").read_text() for v in repository.versions()},
            "aside": [path.name for path in repository.path.glob(".publish-*")],
        }
        publish_and_promote(repository, second)
        found["resumed"] = {
            "labels": repository.labels(),
            "versions": [v.number for v in repository.versions()],
            "aside": [path.name for path in repository.path.glob(".publish-*")],
            "history": [[h["sequence"], h["action"], h["version"]] for h in repository.history()],
        }
        print(json.dumps(found), flush=True)
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
