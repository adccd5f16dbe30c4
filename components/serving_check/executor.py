"""Executor of ServingCheck."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from absl import logging
from pydantic import TypeAdapter
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.local_copy import local_folder
from components.offline_ab.executor import example_files
from components.serving_check.check import check_model
from components.serving_check.config import ServingCheckConfig
from components.serving_check.document import FILES
from components.trainer.reference import Reference
from models.tasks import TaskConfig


class Executor(base_executor.BaseExecutor):
    """Executor of ServingCheck.

    Input keys: model, model_run, examples. Output key: blessing. Parameters: config, tasks, model_name, split.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        split = exec_properties["split"]
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        with contextlib.ExitStack() as stack:
            model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
            files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            verdict = check_model(
                stack.enter_context(local_folder(model)),
                example_files(artifact_utils.get_split_uris(input_dict["examples"], split)),
                Reference.read(artifact_utils.get_single_uri(input_dict["model_run"])),
                TypeAdapter(tuple[TaskConfig, ...]).validate_json(exec_properties["tasks"]),
                ServingCheckConfig.from_json(exec_properties["config"]),
                name=exec_properties["model_name"],
                files=files,
            )
            verdict.write(blessing.uri)
            io_utils.copy_dir(str(files), os.path.join(blessing.uri, FILES))
        blessing.set_int_custom_property("blessed", int(verdict.blessed))
        logging.info("Serving check: %s", "; ".join(verdict.reasons) or "passed")
