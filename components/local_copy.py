"""Folders of artifacts on a mounted file system."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfx.utils import io_utils


@contextlib.contextmanager
def local_folder(folder: str) -> Iterator[Path]:
    """The folder on a mounted file system: itself, or a copy of what is in a bucket."""
    if "://" not in folder:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as copy:
        io_utils.copy_dir(folder, copy)
        yield Path(copy)
