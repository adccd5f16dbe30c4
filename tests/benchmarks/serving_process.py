"""The embedded server in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class ServerProcess:
    """`python -m pipeline serve` on a repository."""

    def __init__(self, root: Path):
        command = [sys.executable, "-m", "pipeline", "serve", "--root", str(root), "--port", "0", "--rest-port", "0"]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := re.search(r"gRPC +(\S+)", line):
                self.address = found[1]
            if found := re.search(r"REST +http://([^/]+)", line):
                self.rest_address = found[1]
            if "TF Serving is what production runs" in line:
                return
        raise RuntimeError("the server did not start:\n" + "".join(lines))

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(60)
