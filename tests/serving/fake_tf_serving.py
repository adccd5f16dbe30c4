"""What TF Serving makes of its models.config, by the rules of tensorflow_serving/model_servers/server_core.cc."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2


class FakeTFServing:
    """Reads a configuration of one model, loads versions when it is told to, and tells their status by REST.

    Args:
      path: the configuration.
    """

    def __init__(self, path: Path):
        self.path = path
        self.wanted: set[int] = set()
        self.loaded: set[int] = set()
        self.labels: Mapping[str, int] = {}
        self._text = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                statuses = [{"version": str(n), "state": "AVAILABLE"} for n in sorted(fake.loaded)]
                statuses += [{"version": str(n), "state": "LOADING"} for n in sorted(fake.wanted - fake.loaded)]
                body = json.dumps({"model_version_status": statuses}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"127.0.0.1:{self._http.server_port}"

    def start(self) -> None:
        """As with --allow_version_labels_for_unavailable_models: its first labels may be of versions to be loaded."""
        self._apply(at_start=True)
        self.load()

    def reload(self) -> bool:
        """Reads the configuration again; whether it is another one."""
        return self._apply(at_start=False)

    def load(self) -> None:
        self.loaded = set(self.wanted)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _apply(self, at_start: bool) -> bool:
        text = self.path.read_text()
        if text == self._text:
            return False
        self._text = text
        (entry,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
        for label, number in entry.version_labels.items():
            # The labels of a new configuration are held against what is loaded before it.
            free = at_start or label not in self.labels
            assert free or number in self.loaded, f"label {label} of version {number}, which is not loaded"
        self.labels = dict(entry.version_labels)
        self.wanted = set(entry.model_version_policy.specific.versions)
        self.loaded &= self.wanted
        assert set(self.labels.values()) <= self.wanted
        return True
