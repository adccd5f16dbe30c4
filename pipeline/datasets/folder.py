"""Folders of generated data that appear whole or not at all, and stay as they are while still current."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.section import UserError

MANIFEST = "manifest.json"


def is_current(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether `out` holds what was made with this manifest.

    Raises:
      UserError: it holds files that no manifest speaks of, so they must not be replaced.
    """
    path = out / MANIFEST
    if path.exists():
        return bool(json.loads(path.read_text()) == manifest)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: expected a new or empty folder, or generated data with its {MANIFEST}")
    return False


@contextlib.contextmanager
def replacing(out: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Gives a folder to write to, which takes the place of `out` once the block has ended well.

    A file that comes out as it was keeps its time of change, so that what was made from it stays current.
    """
    out = out.absolute()  # '.' has no name
    aside, replaced = (out.with_name(f".{out.name}.{suffix}") for suffix in ("partial", "replaced"))
    for leftover in (aside, replaced):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if out.exists():
        for path in aside.rglob("*"):
            before = out / path.relative_to(aside)
            if path.is_file() and before.is_file() and filecmp.cmp(path, before, shallow=False):
                times = before.stat()
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        out.rename(replaced)
    aside.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def fingerprint(*paths: Path) -> str:
    """Digest of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
