"""The column of weights in the curated schema: the join makes it where it samples, and not the logs."""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from models.tasks import WEIGHT

_FEATURE = f"""
feature {{
  name: "{WEIGHT}"
  type: FLOAT
  presence {{
    min_fraction: 1
    min_count: 1
  }}
  value_count {{
    min: 1
    max: 1
  }}
  float_domain {{
    min: 1
  }}
}}
"""


def with_weight(text: str, sampled: bool) -> str:
    """The schema for examples with a column of weights, or without: turning sampling on or off changes no schema file.

    Args:
      text: the curated schema; one that cannot be read comes back as it is.
      sampled: whether the examples have weights.
    """
    try:
        schema = text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError:
        return text
    others = [feature for feature in schema.feature if feature.name != WEIGHT]
    if not schema.feature or (len(others) < len(schema.feature)) == sampled:
        return text
    if sampled:
        return text + _FEATURE
    del schema.feature[:]
    schema.feature.extend(others)
    return text_format.MessageToString(schema)
