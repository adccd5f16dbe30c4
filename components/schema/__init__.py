"""The curated schema of the joined examples."""

from components.schema.component import CuratedSchema
from components.schema.infer import infer_schema
from components.schema.weight import with_weight

__all__ = ["CuratedSchema", "infer_schema", "with_weight"]
