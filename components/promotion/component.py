"""The Promotion component: the candidate's way into the model repository and into service."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.promotion.executor import Executor


class PromotionSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "repository": ExecutionParameter(type=str),
        "model_name": ExecutionParameter(type=str),
        "window": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline": ChannelParameter(type=standard_artifacts.Model),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "evidence": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "serving_check": ChannelParameter(type=standard_artifacts.InfraBlessing),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }
    # A standard type, because Kubeflow's runner knows no others by their name.
    OUTPUTS: ClassVar = {"promotion": ChannelParameter(type=standard_artifacts.PushedModel)}


class Promotion(base_component.BaseComponent):
    """Publishes the candidate as a new version, and makes it `stable` if the gates and the evidence let it.

    It needs both: the blessing of the Evaluator's gates, and the verdict 'promote' of the comparison. Where the two
    differ the reasons say so. A candidate without the blessing of ServingCheck is not published at all.
    It takes the place of TFX's Pusher. A candidate that did not pass gates or rules stays in the repository under the
    label `candidate`. One that passed against a model that is no longer in service, because another run promoted in the
    meantime, stays there too: nothing is overwritten unseen. Doing it again after a kill publishes and promotes
    nothing twice.

    Outputs: `promotion`, with promotion.json (`components.promotion.read_verdict`).

    Args:
      model: the candidate.
      baseline: of the Baseline component.
      blessing, evaluation: of the Evaluator.
      evidence: of OfflineABTest.
      serving_check: of ServingCheck; its files are published with the candidate.
      statistics: of the examples; those of the training days go with the version, so that the next
        run can look for drift.
      repository: root of the model repository.
      model_name: name of the model in it.
      window: JSON of the window of days, kept with the version.
      code_fingerprint: changes with the code of this component.
    """

    SPEC_CLASS = PromotionSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        baseline: types.BaseChannel,
        blessing: types.BaseChannel,
        evaluation: types.BaseChannel,
        evidence: types.BaseChannel,
        serving_check: types.BaseChannel,
        repository: str,
        model_name: str,
        window: str,
        code_fingerprint: str,
        statistics: types.BaseChannel | None = None,
    ):
        super().__init__(
            PromotionSpec(
                model=model,
                baseline=baseline,
                blessing=blessing,
                evaluation=evaluation,
                evidence=evidence,
                serving_check=serving_check,
                statistics=statistics,
                repository=repository,
                model_name=model_name,
                window=window,
                code_fingerprint=code_fingerprint,
                promotion=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
