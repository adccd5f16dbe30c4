"""TFX's trainer, with parameters that may differ from run to run."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.components.trainer import executor as tfx_trainer
from tfx.utils import json_utils

from components.trainer.config import HYPERPARAMETERS, TrainerSpec


class Executor(tfx_trainer.GenericExecutor):
    """Executor of Trainer.

    Input and output keys: those of TFX's. Parameters: TFX's, `checkpoints` and the hyperparameters, which take the
    place of those in the specification.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        custom = json_utils.loads(exec_properties["custom_config"])
        spec = TrainerSpec.from_json(custom["spec"])
        given = {name: exec_properties[name] for name in HYPERPARAMETERS}
        custom["spec"] = spec.with_hyperparameters(given).canonical_json()
        custom["checkpoints"] = exec_properties["checkpoints"]
        super().Do(input_dict, output_dict, {**exec_properties, "custom_config": json_utils.dumps(custom)})
