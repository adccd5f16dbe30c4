"""The Trainer component: TFX's, whose hyperparameters may be given when a run starts."""

from __future__ import annotations

from typing import ClassVar, Union

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.dsl.placeholder import placeholder
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import trainer_pb2
from tfx.types import standard_artifacts
from tfx.types.component_spec import ExecutionParameter
from tfx.types.standard_component_specs import TrainerSpec as TfxTrainerSpec
from tfx.utils import json_utils

from components.trainer.config import HYPERPARAMETERS
from components.trainer.executor import Executor

Text = Union[str, placeholder.Placeholder]
Number = Union[int, float, RuntimeParameter]


class TrainerComponentSpec(TfxTrainerSpec):
    PARAMETERS: ClassVar = {
        **TfxTrainerSpec.PARAMETERS,
        "checkpoints": ExecutionParameter(type=str),
        **{name: ExecutionParameter(type=kind) for name, kind in HYPERPARAMETERS.items()},
    }


class Trainer(base_component.BaseComponent):
    """Trains a ranker by `components.trainer.run_fn`.

    What varies from run to run is a parameter of its own, because a runtime parameter inside of TFX's `custom_config`
    would not be filled in.

    Outputs: `model` and `model_run`, as TFX's Trainer.

    Args:
      examples: transformed examples, with the splits 'train' and 'eval'.
      transform_graph: of Transform.
      base_model: of the Baseline component.
      spec: canonical JSON of a TrainerSpec.
      checkpoints: folder of all runs' checkpoints. Outside of the artifacts: TFX gives a second attempt new ones.
      code_fingerprint: changes with the code of the trainer.
      hyperparameters: by the names of HYPERPARAMETERS; they take the place of those in `spec`.
    """

    SPEC_CLASS = TrainerComponentSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        base_model: types.BaseChannel,
        spec: str,
        checkpoints: Text,
        code_fingerprint: str,
        hyperparameters: dict[str, Number],
    ):
        super().__init__(
            TrainerComponentSpec(
                examples=examples,
                transform_graph=transform_graph,
                base_model=base_model,
                run_fn="components.trainer.run_fn.run_fn",
                train_args=trainer_pb2.TrainArgs(splits=["train"]),
                eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
                custom_config=json_utils.dumps({"spec": spec, "code_fingerprint": code_fingerprint}),
                checkpoints=checkpoints,
                **hyperparameters,
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
