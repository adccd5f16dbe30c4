"""Resolves the window of a run by looking at the logs."""

from __future__ import annotations

from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.log_example_gen.config import AttributionConfig, LogsConfig, WindowConfig
from components.log_example_gen.forgotten import Forgotten
from components.log_example_gen.window import inputs_fingerprint
from components.run_setup.values import joined_under, run_values, window_of_run
from components.trainer.config import HYPERPARAMETERS


class Executor(base_executor.BaseExecutor):
    """Executor of RunSetup. Output keys: `VALUES`. Parameters: those of RunSetupSpec."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        logs = LogsConfig.from_json(exec_properties["logs"])
        attribution = AttributionConfig.from_json(exec_properties["attribution"])
        window = window_of_run(
            logs,
            attribution,
            WindowConfig.from_json(exec_properties["window_config"]),
            exec_properties["asked_first_day"],
            exec_properties["asked_last_day"],
        )
        forgotten = Forgotten.read(joined_under(exec_properties["root"]))
        values = run_values(
            window,
            inputs_fingerprint(logs, attribution, window) + forgotten.digest,
            exec_properties["root"],
            repository=exec_properties["asked_repository"] or None,
            decided_by=exec_properties["decided_by"],
            hyperparameters={name: exec_properties[name] for name in HYPERPARAMETERS},
        )
        logging.info("This run: %s", values)
        for key, value in values.items():
            artifact_utils.get_single_instance(output_dict[key]).value = value
