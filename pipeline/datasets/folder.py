"""Folders of generated data that appear whole or not at all, and stay as they are while still current."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Iterator

MANIFEST = "manifest.json"


def is_current(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether `out` holds what was made with this manifest.

    Raises:
      FileExistsError: it holds files that no manifest speaks of, so they must not be replaced.
    """
    path = out / MANIFEST
    if path.exists():
        return bool(json.loads(path.read_text()) == manifest)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: expected a new or empty folder, or generated data with its {MANIFEST}")
    return False


@contextlib.contextmanager
def replacing(out: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Gives a folder to write to, which takes the place of `out` once the block has ended well."""
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
        out.rename(replaced)
    aside.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def fingerprint(*paths: Path) -> str:
    """Digest of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
