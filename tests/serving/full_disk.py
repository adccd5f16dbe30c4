"""Publishes on a tmpfs that is too small, with every amount of free space from none to enough.

A script of its own, to be run where mounting is allowed. Usage: python full_disk.py FOLDER; prints a JSON line per try.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from models.section import UserError
from serving.model_repository import ModelRepository

SIZE, PAGE = 512 << 10, 4096


def saved_model(folder: Path, size: int, content: bytes) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content * 100)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(content * size)
    return folder


def files(folder: Path) -> dict[str, int]:
    """Every file and its content, but for what locks and for what fills the disk."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hash(path.read_bytes()) for name, path in sorted(found.items()) if path.name not in (".lock", "filler")
    }


def main(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
    first, second = saved_model(folder / "a", 10 << 10, b"a"), saved_model(folder / "b", 60 << 10, b"b")
    repository = ModelRepository(disk, "ranker")
    repository.promote(repository.publish(first, reason="first"), "first")
    filler = disk / "filler"
    free = 0
    while True:
        with open(filler, "wb") as file:
            room = os.statvfs(disk)
            file.write(b"\0" * max(0, room.f_bavail * room.f_bsize - free))
        before, told = files(disk), None
        try:
            version = repository.publish(second, reason="second")
            published = files(disk)
            repository.promote(version, "second")
        except UserError as error:
            told = str(error)
            version = None
        print(json.dumps({
            "free": free,
            "told": told,
            "changed": files(disk) != before,
            "labels": repository.labels(),
            "whole": {v.number: len({*(v.path / "saved_model.pb").read_bytes()}) == 1
                      and (v.path / "variables/variables.data-00000-of-00001").stat().st_size in (10 << 10, 60 << 10)
                      for v in repository.versions()},
            "aside": [path.name for path in repository.path.glob(".publish-*")],
        }))  # fmt: skip
        if version is not None:
            assert published
            return
        free += PAGE


if __name__ == "__main__":
    main(Path(sys.argv[1]))
