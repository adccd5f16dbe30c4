"""LogExampleGen: from exposure and event logs to labelled tf.Examples."""

from __future__ import annotations

from typing import ClassVar, Union

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.dsl.placeholder import placeholder
from tfx.types import artifact, component_spec, standard_artifacts

from components.log_example_gen.executor import Executor

Text = Union[str, placeholder.Placeholder]


class LogReport(artifact.Artifact):
    """What became of every row of the logs: `report.json`, the same as a page in `report.html`, and the rejected rows
    in `rejected/*.parquet`, a data set of the schema `parsing.REJECTED_SCHEMA`."""

    TYPE_NAME = "seesaw.LogReport"  # Kubeflow's runner wants a name space


class LogExampleGenSpec(component_spec.ComponentSpec):
    """Parameters are text, because what varies per run on Kubeflow has to be a typed parameter of its own."""

    PARAMETERS: ClassVar = {
        "logs": component_spec.ExecutionParameter(type=str),
        "attribution": component_spec.ExecutionParameter(type=str),
        "sampling": component_spec.ExecutionParameter(type=str),
        "features": component_spec.ExecutionParameter(type=str),
        "first_day": component_spec.ExecutionParameter(type=str),
        "first_eval_day": component_spec.ExecutionParameter(type=str),
        "last_day": component_spec.ExecutionParameter(type=str),
        "data_end_ms": component_spec.ExecutionParameter(type=str),
        "inputs_fingerprint": component_spec.ExecutionParameter(type=str),
        "joined_uri": component_spec.ExecutionParameter(type=str),
        "join_fingerprint": component_spec.ExecutionParameter(type=str),
        "code_fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict] = {}
    OUTPUTS: ClassVar = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "report": component_spec.ChannelParameter(type=LogReport),
    }


class LogExampleGen(base_beam_component.BaseBeamComponent):
    """Reads the logs of a window of days and joins each exposure with the events that follow from it.

    Days that an earlier run joined from the same files are taken from where they are kept.

    Outputs:
      examples: standard Examples with the splits 'train' and 'eval', by day.
      report: LogReport.
    """

    SPEC_CLASS = LogExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        logs: str,
        attribution: str,
        sampling: str,
        features: str,
        first_day: Text,
        first_eval_day: Text,
        last_day: Text,
        data_end_ms: Text,
        inputs_fingerprint: Text,
        joined_uri: Text,
        join_fingerprint: str,
        code_fingerprint: str,
    ):
        """Construct a LogExampleGen component.

        Args:
          logs: canonical JSON of LogsConfig, its root absolute.
          attribution: canonical JSON of AttributionConfig.
          sampling: canonical JSON of SamplingConfig.
          features: JSON list of the features.
          first_day: first training day, such as 2026-01-01.
          first_eval_day: first evaluation day.
          last_day: last evaluation day.
          data_end_ms: end of the data that is there (epoch ms), as text.
          inputs_fingerprint: digest of the files that are read, so that the cache knows them.
          joined_uri: folder in which joined days are kept, on the file system of the outputs.
          join_fingerprint: digest of the code that decides on the examples of a day; part of their names.
          code_fingerprint: digest of all the code, so that the cache knows it.
        """
        spec = LogExampleGenSpec(
            logs=logs,
            attribution=attribution,
            sampling=sampling,
            features=features,
            first_day=first_day,
            first_eval_day=first_eval_day,
            last_day=last_day,
            data_end_ms=data_end_ms,
            inputs_fingerprint=inputs_fingerprint,
            joined_uri=joined_uri,
            join_fingerprint=join_fingerprint,
            code_fingerprint=code_fingerprint,
            examples=types.Channel(type=standard_artifacts.Examples),
            report=types.Channel(type=LogReport),
        )
        super().__init__(spec=spec)
