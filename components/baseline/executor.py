"""Copies the model in service out of the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.baseline.layout import NO_MODEL, VERSION_FILE
from serving.model_repository import ModelRepository


class Executor(base_executor.BaseExecutor):
    """Executor of Baseline. Output key: model. Parameters: repository, model_name; the others are for the cache."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        repository = ModelRepository(exec_properties["repository"], exec_properties["model_name"])
        model = artifact_utils.get_single_instance(output_dict["model"])
        fileio.makedirs(model.uri)
        stable = repository.stable()
        if stable is None:
            logging.info("No model is in service in %s: this run is judged by absolute floors.", repository.path)
            io_utils.write_string_file(os.path.join(model.uri, NO_MODEL), "")
        else:
            logging.info("Version %d is in service in %s: it is the baseline.", stable.number, repository.path)
            copy_model(stable.path, path_utils.serving_model_dir(model.uri))
        number = stable.number if stable else None
        io_utils.write_string_file(os.path.join(model.uri, VERSION_FILE), json.dumps({"version": number}))
        model.set_int_custom_property("version", number or 0)


def copy_model(source: Path, target: str) -> None:
    """Copies a version's folder; by hard links, which cost no space, where the file system allows them.

    Files of a version are never written again, so sharing them is safe.
    """
    for folder, _, names in os.walk(source):
        there = os.path.normpath(os.path.join(target, os.path.relpath(folder, source)))
        fileio.makedirs(there)
        for name in names:
            file, copy = os.path.join(folder, name), os.path.join(there, name)
            try:
                os.link(file, copy)
            except OSError:  # a bucket, another file system, or one without links
                fileio.copy(file, copy)
