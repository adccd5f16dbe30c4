"""The CuratedSchema component: the user's schema as an artifact."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.schema.executor import Executor


class CuratedSchemaSpec(ComponentSpec):
    PARAMETERS: ClassVar = {"schema_text": ExecutionParameter(type=str)}
    INPUTS: ClassVar[dict] = {}
    OUTPUTS: ClassVar = {"schema": ChannelParameter(type=standard_artifacts.Schema)}


class CuratedSchema(base_component.BaseComponent):
    """Gives the curated schema to the components that read one.

    The text, not a path, is the parameter: TFX's cache knows parameters but not what a file says, and
    would answer an edited file with the schema of before.

    Outputs: `schema`, with schema.pbtxt as StatisticsGen, ExampleValidator and Transform read it.

    Args:
      schema_text: a Schema proto in text format.
    """

    SPEC_CLASS = CuratedSchemaSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, schema_text: str):
        super().__init__(
            CuratedSchemaSpec(schema_text=schema_text, schema=types.Channel(type=standard_artifacts.Schema))
        )
