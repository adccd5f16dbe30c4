"""Kills publishing, promoting, rolling back and pruning at random moments, and looks at the repository after each kill.

A script of its own, so that the forks start from a small process with one thread.
Usage: python random_kills.py FOLDER KILLS SEED; prints one JSON line per kill and one with the counts at the end.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from models.section import UserError
from serving.model_repository import ModelRepository, ServiceChanged

FILES = ("saved_model.pb", "variables/variables.index", "assets/vocabulary", "assets.extra/warmup")


def source(folder: Path, name: str) -> Path:
    """A stand-in for a SavedModel: each file says whose it is, once per kilobyte."""
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{name}\n" * 100)
    return folder


def publish_and_promote(repository: ModelRepository, folder: Path) -> None:
    """A run: its candidate was compared with the model in service when it began."""
    before = repository.labels().get("stable")
    version = repository.publish(folder, reason=folder.name)
    with contextlib.suppress(ServiceChanged):
        repository.promote(version, folder.name, replacing=before)


def roll_back(repository: ModelRepository, _: Path) -> None:
    with contextlib.suppress(UserError):  # there is nothing to go back to
        repository.rollback("test")


def prune(repository: ModelRepository, _: Path) -> None:
    repository.collect_garbage(keep=1)


WORKS: dict[str, Callable[[ModelRepository, Path], None]] = {
    "publish and promote": publish_and_promote,
    "roll back": roll_back,
    "prune": prune,
}


def start(work: Callable[[ModelRepository, Path], None], repository: ModelRepository, folder: Path) -> int:
    """Starts a child at a piece of work; it has begun when this returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"!")
            work(repository, folder)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return child


def duration(work: Callable[[ModelRepository, Path], None], repository: ModelRepository, folder: Path) -> float:
    begin = time.perf_counter()
    os.waitpid(start(work, repository, folder), 0)
    return time.perf_counter() - begin


def look(repository: ModelRepository) -> dict:
    """What a server would find."""
    versions = {}
    for version in repository.versions():
        texts = {(version.path / file).read_text() if (version.path / file).exists() else "" for file in FILES}
        text = texts.pop() if len(texts) == 1 else ""
        name = text.split("\n")[0]
        versions[version.number] = name if name and text == f"{name}\n" * 100 and version.details["source"] else None
    return {"labels": repository.labels(), "versions": versions}


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    repository = ModelRepository(folder / "models", "ranker")
    made = iter(range(10**6))

    def another() -> Path:
        name = f"model {next(made)}"
        return source(folder / name, name)

    typical = {}
    for name, work in WORKS.items():
        typical[name] = max(duration(work, repository, another()) for _ in range(4))
    found: Counter[str] = Counter()
    while found["killed"] < kills:
        before = look(repository)
        names = [rng.choice(list(WORKS)) for _ in range(rng.choice([1, 2]))]
        children = [start(WORKS[name], repository, another()) for name in names]
        time.sleep(rng.uniform(0, 1.1 * len(names) * max(typical[name] for name in names)))
        dying = rng.sample(children, rng.randint(1, len(children)))
        for child in dying:
            os.kill(child, signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in children]
        killed = sum(os.WIFSIGNALED(end) for end in ends)
        after = look(repository)
        found["killed"] += killed
        found["rounds"] += 1
        found["of two at once"] += killed if len(names) == 2 else 0
        found["moved labels"] += after["labels"] != before["labels"]
        found["left something aside"] += any(repository.path.glob(".publish-*"))
        for name, end in zip(names, ends):
            found[f"killed: {name}"] += os.WIFSIGNALED(end)
        failed = [os.waitstatus_to_exitcode(end) for end in ends if not os.WIFSIGNALED(end)]
        print(json.dumps({"works": names, "exits": failed, "before": before, "after": after}))
    repository.promote(repository.publish(another(), reason="last"), "last")
    repository.collect_garbage(keep=0)
    sequences = [change["sequence"] for change in repository.history()]
    end = {"left": sorted(path.name for path in repository.path.iterdir()), "sequences": sequences}
    print(json.dumps({"counts": found, "end": end, "labels": repository.labels()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
