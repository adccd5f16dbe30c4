"""The Evaluator component: TFX's, which also knows a run without a model in service."""

from __future__ import annotations

from typing import ClassVar

from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator import component as tfx_evaluator
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ExecutionParameter
from tfx.types.standard_component_specs import EvaluatorSpec as TfxEvaluatorSpec
from tfx.utils import json_utils

from components.evaluator.executor import Executor


class EvaluatorSpec(TfxEvaluatorSpec):
    PARAMETERS: ClassVar = {**TfxEvaluatorSpec.PARAMETERS, "code_fingerprint": ExecutionParameter(type=str)}


class Evaluator(tfx_evaluator.Evaluator):
    """Evaluates the candidate, and the model in service beside it where there is one.

    A baseline artifact without a model, or with one that does not give the outputs to be evaluated, takes
    the first-run path: rules that compare fall away, absolute floors decide. `comparison.json` in
    `evaluation` says which path was taken and why.

    Outputs: `evaluation` and `blessing`, as TFX's Evaluator.

    Args:
      examples: joined examples with their labels.
      model: the candidate.
      baseline_model: of the Baseline component.
      eval_config: of `build_eval_config`.
      example_splits: splits to evaluate on.
      code_fingerprint: changes with the code of this component.
    """

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        eval_config: config_pb2.EvalConfig,
        example_splits: list[str],
        code_fingerprint: str,
    ):
        # Not the parent's __init__, whose specification has no place for the fingerprint.
        base_beam_component.BaseBeamComponent.__init__(
            self,
            spec=EvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                eval_config=eval_config,
                example_splits=json_utils.dumps(example_splits),
                fairness_indicator_thresholds=json_utils.dumps(None),
                code_fingerprint=code_fingerprint,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            ),
        )
