"""The Baseline component: fixes which model a run compares with and starts from."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.baseline.executor import Executor


class BaselineSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "repository": ExecutionParameter(type=str),
        "model_name": ExecutionParameter(type=str),
        "first_day": ExecutionParameter(type=str),
        "first_eval_day": ExecutionParameter(type=str),
        "last_day": ExecutionParameter(type=str),
        "data_end_ms": ExecutionParameter(type=str),
        "fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict] = {}
    OUTPUTS: ClassVar = {"model": ChannelParameter(type=standard_artifacts.Model)}


class Baseline(base_component.BaseComponent):
    """Takes the version that is `stable` now as the baseline of this window and fingerprint.

    It has no inputs, so TFX's cache knows a run by its parameters: the same window and fingerprint get
    the baseline that they first had, whatever was promoted since. Running the same thing twice is then
    a cache hit all the way down and not a second promotion.

    Outputs: `model`, a Model as Trainer's base_model and Evaluator's baseline_model read it, with the
    custom property `version` (0 without a model in service); `components.baseline.has_model` tells.

    Args:
      repository: root of the model repository.
      model_name: name of the model in it.
      first_day, first_eval_day, last_day, data_end_ms: the window of the run, as text.
      fingerprint: changes with everything else that can change the candidate or the verdict on it:
        configuration, code, log files.
    """

    SPEC_CLASS = BaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        repository: str,
        model_name: str,
        first_day: str,
        first_eval_day: str,
        last_day: str,
        data_end_ms: str,
        fingerprint: str,
    ):
        super().__init__(
            BaselineSpec(
                repository=repository,
                model_name=model_name,
                first_day=first_day,
                first_eval_day=first_eval_day,
                last_day=last_day,
                data_end_ms=data_end_ms,
                fingerprint=fingerprint,
                model=types.Channel(type=standard_artifacts.Model),
            )
        )
