"""Environments of their own for what a benchmark compares with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rich.console import Console

REPOSITORY = Path(__file__).resolve().parents[2]


def python_with(requirements: tuple[str, ...], folder: Path, console: Console) -> Path:
    """The Python of an environment that holds just these requirements; installed where it is not there yet.

    Raises:
      subprocess.CalledProcessError: where they cannot be installed; its `stderr` says why.
    """
    folder = folder.resolve()
    python, marker = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if marker.exists() and marker.read_text() == wanted:
        return python
    console.print(f"installing {', '.join(requirements)} into {folder}")
    own = REPOSITORY / ".uv" / "bin" / "uv"
    uv = str(own) if own.exists() else "uv"
    variables = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    create = [uv, "venv", "--quiet", "--clear", "--python", "3.10", str(folder)]
    install = [uv, "pip", "install", "--quiet", "--python", str(python), *requirements]
    for command in (create, install):
        subprocess.run(command, check=True, capture_output=True, text=True, env=variables, cwd=REPOSITORY)
    marker.write_text(wanted)
    return python


def last_line(error: subprocess.CalledProcessError | OSError) -> str:
    """Why an installation failed, in a line."""
    text = getattr(error, "stderr", None) or str(error)
    return text.strip().splitlines()[-1]
