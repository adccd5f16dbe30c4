"""TF Serving's models.config, which follows the labels of the model repository."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.model_repository import Label, ModelRepository


def models_config(
    model: str, base_path: str, labels: Mapping[Label, int], loaded: set[int] | None = None
) -> model_server_config_pb2.ModelServerConfig:
    """The configuration that loads every labelled version, and sets the labels.

    Args:
      model: name of the model.
      base_path: its folder as TF Serving sees it.
      labels: version per label.
      loaded: versions that TF Serving has in memory; labels of others are left out, which it would refuse. All of the
        labelled ones by default.
    """
    config = model_server_config_pb2.ModelServerConfig()
    entry = config.model_config_list.config.add(name=model, base_path=base_path, model_platform="tensorflow")
    kept = {label: n for label, n in labels.items() if loaded is None or n in loaded}
    entry.model_version_policy.specific.versions.extend(sorted({*labels.values(), *(loaded or ())}))
    for label, number in sorted(kept.items()):
        entry.version_labels[label] = number
    return config


def steps(
    model: str, base_path: str, before: Mapping[Label, int], after: Mapping[Label, int]
) -> list[model_server_config_pb2.ModelServerConfig]:
    """The configurations, to be applied one after the other, that move labels without a gap.

    First both the old and the new versions are loaded, with the labels where they were; when the new ones are there,
    the labels move and the old versions go. TF Serving refuses a label of a version that it has not loaded, and a
    version that went before its label moved would leave requests without an answer.
    """
    wanted = set(after.values())
    both = models_config(model, base_path, before, set(before.values()) | wanted)
    last = models_config(model, base_path, after)
    return [both, last] if set(before.values()) - wanted or wanted - set(before.values()) else [last]


def write_config(config: model_server_config_pb2.ModelServerConfig, path: str | Path) -> None:
    """Writes a configuration; who reads the file finds the old one or the new one.

    TF Serving reads it again every --model_config_file_poll_wait_seconds, and at its start needs
    --allow_version_labels_for_unavailable_models, because nothing is loaded then.
    """
    aside = Path(path).with_name(f".{Path(path).name}")
    aside.write_text(text_format.MessageToString(config), encoding="utf-8")
    os.replace(aside, path)


def apply_in_steps(
    repository: ModelRepository, before: Mapping[Label, int], path: str | Path, base_path: str | None, wait: float
) -> None:
    """Writes the configurations that move TF Serving's labels from `before` to what they are now.

    Args:
      repository: with the labels as they are now.
      before: labels as TF Serving has them.
      path: the file that TF Serving reads.
      base_path: the model's folder as TF Serving sees it; the repository's by default.
      wait: seconds between the steps, in which the new versions are loaded.
    """
    configs = steps(repository.model, base_path or str(repository.path), before, repository.labels())
    for i, config in enumerate(configs):
        if i:
            time.sleep(wait)
        write_config(config, path)
