"""The embedded server, and a bare gRPC server, in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
from serving_echo import METHOD

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


class Echo:
    """`serving_echo.py`, and `ask`, which sends it bytes.

    Args:
      size: bytes of its answers.
    """

    def __init__(self, size: int):
        command = [sys.executable, str(Path(__file__).parent / "serving_echo.py"), str(size)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._channel = grpc.insecure_channel(f"127.0.0.1:{int(self._process.stdout.readline())}")
        self.ask = self._channel.unary_unary(METHOD)

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait(60)
