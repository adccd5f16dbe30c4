"""Proof that an exported model can be served: it loads without Python, scores as the trainer does, and in time."""

from components.serving_check.component import ServingCheck
from components.serving_check.document import ServingVerdict, read_serving_check

__all__ = ["ServingCheck", "ServingVerdict", "read_serving_check"]
