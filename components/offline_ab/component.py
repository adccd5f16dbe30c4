"""The OfflineABTest component: the candidate and the model in service on the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from pydantic import TypeAdapter
from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.offline_ab.config import EvidenceConfig
from components.offline_ab.executor import Executor
from models.tasks import TaskConfig


class OfflineABTestSpec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "config": ExecutionParameter(type=str),
        "tasks": ExecutionParameter(type=str),
        "slices": ExecutionParameter(type=str),
        "splits": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model),
    }
    # A standard type, because Kubeflow's runner knows no others by their name.
    OUTPUTS: ClassVar = {"evidence": ChannelParameter(type=standard_artifacts.ModelEvaluation)}


class OfflineABTest(base_beam_component.BaseBeamComponent):
    """Scores the same rows with both models once, and holds the rules against the differences' intervals.

    A baseline artifact without a model, or with one that lacks an output, takes the first-run path: the candidate's
    metrics alone, and a verdict that leaves the decision to the gates' floors.

    Outputs: `evidence`, with evidence.json (`components.offline_ab.read_evidence`) and scores/*.parquet.

    Args:
      examples: joined examples with their labels.
      model: the candidate.
      baseline_model: of the Baseline component.
      config: rules and settings.
      tasks: the chain.
      slices: columns to cut by.
      splits: splits to compare on.
      code_fingerprint: changes with the code of this component.
    """

    SPEC_CLASS = OfflineABTestSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        config: EvidenceConfig,
        tasks: tuple[TaskConfig, ...],
        slices: Sequence[Sequence[str]],
        splits: list[str],
        code_fingerprint: str,
    ):
        super().__init__(
            OfflineABTestSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                config=config.canonical_json(),
                tasks=TypeAdapter(tuple[TaskConfig, ...]).dump_json(tasks).decode(),
                slices=json.dumps(slices),
                splits=json.dumps(splits),
                code_fingerprint=code_fingerprint,
                evidence=types.Channel(type=standard_artifacts.ModelEvaluation),
            )
        )
