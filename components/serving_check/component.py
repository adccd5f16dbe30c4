"""The ServingCheck component: an exported model must answer as the trainer would, in time, without Python."""

from __future__ import annotations

from typing import ClassVar

from pydantic import TypeAdapter
from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.serving_check.config import ServingCheckConfig
from components.serving_check.executor import Executor
from models.tasks import TaskConfig


class ServingCheckSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "config": ExecutionParameter(type=str),
        "tasks": ExecutionParameter(type=str),
        "model_name": ExecutionParameter(type=str),
        "split": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
    }
    # A standard type, because Kubeflow's runner knows no others by their name.
    OUTPUTS: ClassVar = {"blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ServingCheck(base_component.BaseComponent):
    """Loads the exported model as TF Serving would, scores raw rows by every signature, and times requests.

    It takes the place of TFX's InfraValidator, and needs no container: a fresh process loads the model by TensorFlow's
    C++ loader, without TensorFlow's Python. A model is blessed if it loads, every signature gives the trainer's
    scores for raw rows of the evaluation days, the scores are probabilities, and requests stay within the budget.

    Outputs: `blessing`, with serving_check.json (`components.serving_check.read_serving_check`), and in `files/` what
    Promotion publishes with the model: warm-up requests and batching parameters.

    Args:
      model: the exported model.
      model_run: of the trainer, with rows that it scored.
      examples: joined examples.
      config: what the model must show.
      tasks: the chain.
      model_name: name of the model in the repository.
      split: split of the examples that the trainer scored rows of.
      code_fingerprint: changes with the code of this component.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        model_run: types.BaseChannel,
        examples: types.BaseChannel,
        config: ServingCheckConfig,
        tasks: tuple[TaskConfig, ...],
        model_name: str,
        split: str,
        code_fingerprint: str,
    ):
        super().__init__(
            ServingCheckSpec(
                model=model,
                model_run=model_run,
                examples=examples,
                config=config.canonical_json(),
                tasks=TypeAdapter(tuple[TaskConfig, ...]).dump_json(tasks).decode(),
                model_name=model_name,
                split=split,
                code_fingerprint=code_fingerprint,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
