"""The embedded server: gRPC and REST in front of a model repository."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from models.section import UserError
from serving.served_log import ServedLog
from serving.server.admission import Admission
from serving.server.batching import Batching
from serving.server.grpc_server import GrpcServer
from serving.server.http_server import HttpServer
from serving.server.manager import ModelManager
from serving.server.metrics import Metrics
from serving.server.requests import Requests

_LOG = logging.getLogger(__name__)
_SPARE_THREADS = 4  # so that status and refusals are answered while all others wait


@dataclass(frozen=True)
class ServerOptions:
    """How the server runs.

    Attributes:
      host: address to listen on.
      port, rest_port: ports of gRPC and REST; 0 takes a free one.
      poll_seconds: how often the repository is looked at.
      running: requests in a model at a time; 0 for one more than there are processors, so that none idles while Python
        takes an answer.
      waiting: requests that may wait; more are answered UNAVAILABLE.
      max_request_bytes: size limit of a request.
      grace_seconds: how long requests under way have at the end.
      log: folder of the log of what is served; none by default.
      log_timezone: of the days in it.
      log_seconds: a file of it has the requests of so long a time.
      max_batch_size: rows of small requests that are joined into one call; 0 for none. Not of `rank`.
      batch_timeout_micros: how long a batch waits to be filled, in microseconds.

    Raises:
      UserError: naming the option that is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int = 8501
    poll_seconds: float = 1.0
    running: int = 0
    waiting: int = 128
    max_request_bytes: int = 64 << 20
    grace_seconds: float = 10.0
    log: Path | None = None
    log_timezone: str = "UTC"
    log_seconds: float = 60.0
    max_batch_size: int = 0
    batch_timeout_micros: int = 1000

    def __post_init__(self):
        for option, value, least, most in (
            ("--port", self.port, 0, 65535),
            ("--rest-port", self.rest_port, 0, 65535),
            ("--poll", self.poll_seconds, 0.01, float("inf")),
            ("--running", self.running, 0, float("inf")),
            ("--waiting", self.waiting, 0, float("inf")),
            ("--max-bytes", self.max_request_bytes, 1, float("inf")),
        ):
            if not least <= value <= most:
                limit = f"at least {least}" if most == float("inf") else f"{least} to {most}"
                raise UserError(f"{option}: expected {limit}, got {value}")


class Server:
    """Serves the models of a repository; a context manager.

    Args:
      root: root of the model repository.
      options: how.

    Raises:
      UserError: if there is no model, or a port cannot be used.
    """

    def __init__(self, root: str | Path, options: ServerOptions = ServerOptions()):
        self.options = options
        self._log = None
        if options.log is not None:  # before the models, which take their time
            self._log = ServedLog(options.log, timezone=options.log_timezone, seconds=options.log_seconds)
        self.manager = ModelManager(root)
        self.manager.update()
        running = options.running or (os.cpu_count() or 1) + 1
        self.admission = Admission(running, options.waiting)
        self.metrics = Metrics()
        batching = (
            Batching(options.max_batch_size, options.batch_timeout_micros) if options.max_batch_size > 0 else None
        )
        requests = Requests(self.manager, self.admission, self.metrics, self._log, batching)
        threads = running + options.waiting + _SPARE_THREADS
        limits = {"threads": threads, "max_bytes": options.max_request_bytes}
        try:
            self._grpc = GrpcServer(requests, f"{options.host}:{options.port}", **limits)
        except RuntimeError:
            raise UserError(f"--port: {options.host}:{options.port} cannot be used") from None
        self._http = HttpServer(requests, options.host, options.rest_port, **limits)
        self.port, self.rest_port = self._grpc.port, self._http.port
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="watcher")

    def __enter__(self) -> Server:
        self._grpc.start()
        self._http.start()
        self._grpc.tell_health(bool(self.manager.serving()))
        self._watcher.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._grpc.stop(self.options.grace_seconds)
        self._http.stop()
        if self._log is not None:
            self._log.close()
        # A version that is being loaded is not waited for: the thread ends with the process.
        self._watcher.join(self.options.grace_seconds)
        if not self._watcher.is_alive():
            self.manager.close()

    def _watch(self) -> None:
        while not self._over.wait(self.options.poll_seconds):
            try:
                self.manager.update()
                self._grpc.tell_health(bool(self.manager.serving()))
            except Exception:  # what serves goes on
                _LOG.exception("looking at the model repository failed; it is tried again")
