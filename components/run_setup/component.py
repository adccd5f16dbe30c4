"""The RunSetup component: which days a run reads and where it writes, found out where it runs."""

from __future__ import annotations

from typing import ClassVar, Union

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.run_setup.executor import Executor
from components.run_setup.values import VALUES
from components.trainer.config import HYPERPARAMETERS

Text = Union[str, RuntimeParameter]
Number = Union[int, float, RuntimeParameter]


class RunSetupSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "logs": ExecutionParameter(type=str),
        "attribution": ExecutionParameter(type=str),
        "window_config": ExecutionParameter(type=str),
        # Names differ from those of the outputs, because TFX wants them to.
        "asked_first_day": ExecutionParameter(type=str),
        "asked_last_day": ExecutionParameter(type=str),
        "root": ExecutionParameter(type=str),
        "asked_repository": ExecutionParameter(type=str),
        "decided_by": ExecutionParameter(type=str),
        **{name: ExecutionParameter(type=kind) for name, kind in HYPERPARAMETERS.items()},
    }
    INPUTS: ClassVar[dict] = {}
    OUTPUTS: ClassVar = {key: ChannelParameter(type=standard_artifacts.String) for key in VALUES}


class RunSetup(base_component.BaseComponent):
    """Resolves the window of days by looking at the logs, for runs that are composed where the logs cannot be seen.

    It takes the place of TFX's resolvers. Its outputs are texts, for the other components to take as parameters:
    `RunSetup(...).outputs["last_day"].future()[0].value`. So their cache keys change with the days, the log files, the
    configuration and the hyperparameters, though this component has to run each time.

    Outputs: a String for each of `VALUES`.

    Args:
      logs, attribution: canonical JSON of those sections.
      window_config: canonical JSON of WindowConfig.
      first_day: a day such as 2026-01-01; 'window' for as many days as the configuration says.
      last_day: a day; 'latest' for the last one whose labels are final.
      root: folder of everything that the pipeline writes beside its artifacts.
      repository: root of the model repository; '' for the one under `root`.
      decided_by: changes with the configuration and the code.
      hyperparameters: by the names of HYPERPARAMETERS.
    """

    SPEC_CLASS = RunSetupSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        logs: str,
        attribution: str,
        window_config: str,
        first_day: Text,
        last_day: Text,
        root: Text,
        repository: str,
        decided_by: str,
        hyperparameters: dict[str, Number],
    ):
        super().__init__(
            RunSetupSpec(
                logs=logs,
                attribution=attribution,
                window_config=window_config,
                asked_first_day=first_day,
                asked_last_day=last_day,
                root=root,
                asked_repository=repository,
                decided_by=decided_by,
                **hyperparameters,
                **{key: types.Channel(type=standard_artifacts.String) for key in VALUES},
            )
        )
