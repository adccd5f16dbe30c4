"""Checks the curated schema and writes it."""

from __future__ import annotations

import os
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from models.section import UserError


class Executor(base_executor.BaseExecutor):
    """Executor of CuratedSchema. Output key: schema. Parameter: schema_text."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        text = exec_properties["schema_text"]
        parse_schema(text)
        uri = artifact_utils.get_single_uri(output_dict["schema"])
        io_utils.write_string_file(os.path.join(uri, "schema.pbtxt"), text)


def parse_schema(text: str) -> schema_pb2.Schema:
    """Reads a schema from its text.

    Raises:
      UserError: with line and column where the text is no Schema proto, or when it has no features.
    """
    try:
        schema = text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError as error:
        raise UserError(f"schema: expected a Schema proto as text, line:column {error}") from None
    if not schema.feature:
        raise UserError("schema: expected at least one feature, found none")
    names = [feature.name for feature in schema.feature]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"schema: feature '{repeated[0]}' is listed twice")
    return schema
