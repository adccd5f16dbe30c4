"""The ExampleValidator component: anomalies stop the run."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.example_validator.executor import Executor


class ExampleValidatorSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "drift": ExecutionParameter(type=str),
        "labels": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar = {
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "baseline": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS: ClassVar = {"anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies)}


class ExampleValidator(base_component.BaseComponent):
    """Holds every split's statistics against the schema, and those of `train` against the previous window's.

    TFX's component of this name only notes anomalies. This one fails, with a line per anomaly, when a split is
    empty, does not fit the schema, has a label of one class only, or when a feature has drifted from the window
    on which the model in service was trained. Without a model in service, or with one that carries no
    statistics, drift is not looked at.

    Outputs: `anomalies`, as TFX's component writes them.

    Args:
      statistics: of the examples.
      schema: the curated schema.
      baseline: of the Baseline component.
      drift: JSON object, feature to threshold.
      labels: JSON list of the label columns.
      code_fingerprint: changes with the code of this component.
    """

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        baseline: types.BaseChannel,
        drift: str,
        labels: str,
        code_fingerprint: str,
    ):
        super().__init__(
            ExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                baseline=baseline,
                drift=drift,
                labels=labels,
                code_fingerprint=code_fingerprint,
                anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
