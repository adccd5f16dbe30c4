"""Evaluation of a candidate by task and slice, and the gates that it must pass."""

from components.evaluator.component import Evaluator
from components.evaluator.config import EvaluationConfig, Gate
from components.evaluator.eval_config import build_eval_config
from components.evaluator.results import TaskMetrics, explain_validation, read_summary

__all__ = [
    "EvaluationConfig",
    "Evaluator",
    "Gate",
    "TaskMetrics",
    "build_eval_config",
    "explain_validation",
    "read_summary",
]
