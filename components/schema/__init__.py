"""The curated schema of the joined examples."""

from components.schema.component import CuratedSchema
from components.schema.infer import infer_schema

__all__ = ["CuratedSchema", "infer_schema"]
