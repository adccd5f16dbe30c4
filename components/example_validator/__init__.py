"""Validation of the examples, which stops a run."""

from components.example_validator.component import ExampleValidator
from components.example_validator.config import ValidationConfig

__all__ = ["ExampleValidator", "ValidationConfig"]
