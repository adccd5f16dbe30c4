"""The model in service when a run began."""

from components.baseline.component import Baseline
from components.baseline.layout import baseline_version, has_model, statistics_file

__all__ = ["Baseline", "baseline_version", "has_model", "statistics_file"]
