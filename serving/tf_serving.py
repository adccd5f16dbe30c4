"""TF Serving's models.config, which follows the labels of the model repository."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import urllib3
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from models.section import UserError
from serving.model_repository import Label, ModelRepository

_POOL = urllib3.PoolManager(timeout=5.0, retries=False)


def models_config(
    model: str, base_path: str, labels: Mapping[Label, int], also: Collection[int] = ()
) -> ModelServerConfig:
    """The configuration that loads every labelled version, and sets the labels.

    Args:
      model: name of the model.
      base_path: its folder as TF Serving sees it.
      labels: version per label.
      also: versions to load that have no label yet.
    """
    config = ModelServerConfig()
    entry = config.model_config_list.config.add(name=model, base_path=base_path, model_platform="tensorflow")
    entry.model_version_policy.specific.versions.extend(sorted({*labels.values(), *also}))
    for label, number in sorted(labels.items()):
        entry.version_labels[label] = number
    return config


def next_config(
    repository: ModelRepository, base_path: str, written: ModelServerConfig | None, loaded: Collection[int] | None
) -> ModelServerConfig | None:
    """What to write now so that TF Serving comes to have the repository's labels without a gap.

    A move takes two steps. First both the old and the new versions are loaded, with the labels where they were; when
    the new ones are there, the labels move and the old versions go. TF Serving holds the labels of a new configuration
    against the versions that it has in memory, and refuses to move one to a version that is not among them.

    Args:
      repository: with the labels as they are to be.
      base_path: the model's folder as TF Serving sees it.
      written: what TF Serving reads now.
      loaded: versions that it has in memory; None if it does not answer.

    Returns:
      None if there is nothing to write: nothing is to change, or TF Serving is still loading, or there is no label.
    """
    labels = repository.labels()
    if not labels:
        return None
    last = models_config(repository.model, base_path, labels)
    before = _labels(written, repository.model)
    # Where it cannot have started with what is written, there is nothing in service that could get lost.
    if not before or not set(before.values()) <= {v.number for v in repository.versions()}:
        step = last
    elif loaded is None:
        return None
    elif set(labels.values()) <= set(loaded):
        step = last
    else:
        step = models_config(repository.model, base_path, before, labels.values())
    return None if step == written else step


class LabelFollower:
    """Writes the file that TF Serving reads, step by step, until it has the repository's labels.

    Args:
      repository: with the labels as they are to be.
      path: TF Serving's --model_config_file.
      base_path: the model's folder as TF Serving sees it; the repository's by default.
      server: 'host:port' of TF Serving's REST API; without it the file is what TF Serving is to start with.

    Raises:
      UserError: if the file is there and is no such configuration.
    """

    def __init__(
        self, repository: ModelRepository, path: str | Path, base_path: str | None = None, server: str | None = None
    ):
        self.repository = repository
        self.path = Path(path)
        self._base_path = base_path or str(repository.path)
        self._server = server
        self._written = read_config(path) if server is not None else None

    def step(self) -> ModelServerConfig | None:
        """Writes the next configuration if it is time for one, and returns it."""
        loaded = loaded_versions(self._server, self.repository.model) if self._server is not None else None
        config = next_config(self.repository, self._base_path, self._written, loaded)
        if config is not None:
            write_config(config, self.path)
            self._written = config
        return config

    @property
    def arrived(self) -> bool:
        """Whether the labels that are written are the repository's."""
        return _labels(self._written, self.repository.model) == self.repository.labels()


def read_config(path: str | Path) -> ModelServerConfig | None:
    """The configuration in a file, None without one.

    Raises:
      UserError: if there is something else in it.
    """
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), ModelServerConfig())
    except FileNotFoundError:
        return None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a configuration of TF Serving's models: {error}") from None


def write_config(config: ModelServerConfig, path: str | Path) -> None:
    """Writes a configuration; who reads the file finds the old one or the new one.

    TF Serving reads it again every --model_config_file_poll_wait_seconds, and at its start needs
    --allow_version_labels_for_unavailable_models, because nothing is loaded then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.write_text(text_format.MessageToString(config), encoding="utf-8")
    os.replace(aside, path)


def loaded_versions(address: str, model: str) -> set[int] | None:
    """The versions that a TF Serving has in memory, by its REST API; None if it does not answer.

    By REST, since the messages of its gRPC API bring TensorFlow along, and half a gigabyte of memory.
    """
    try:
        answer = _POOL.request("GET", f"http://{address}/v1/models/{model}")
        statuses = json.loads(answer.data).get("model_version_status", []) if answer.status == 200 else []
    except (urllib3.exceptions.HTTPError, ValueError):
        return None
    return {int(status["version"]) for status in statuses if status["state"] == "AVAILABLE"}


def _labels(config: ModelServerConfig | None, model: str) -> dict[Label, int]:
    entries = config.model_config_list.config if config is not None else ()
    return next((dict(entry.version_labels) for entry in entries if entry.name == model), {})
