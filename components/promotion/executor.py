"""Publishes the candidate and moves the labels as the gates decided."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from absl import logging
from tfx import types
from tfx.components.statistics_gen.stats_artifact_utils import BINARY_PB_BASENAME
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.baseline.layout import EVALUATION_STATISTICS, STATISTICS, baseline_version
from components.evaluator.results import comparison, explain_validation
from components.offline_ab.document import DOCUMENT_FILE, Evidence, read_evidence
from components.promotion.verdict import Verdict
from serving.model_repository import ModelRepository, ServiceChanged

_BLESSED = "BLESSED"


class Executor(base_executor.BaseExecutor):
    """Executor of Promotion.

    Input keys: model, baseline, blessing, evaluation, evidence, statistics (optional). Output key: promotion.
    Parameters: repository, model_name, window.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        repository = ModelRepository(exec_properties["repository"], exec_properties["model_name"])
        baseline = baseline_version(artifact_utils.get_single_uri(input_dict["baseline"]))
        evidence = _evidence(input_dict)
        passed, reasons = _judgement(input_dict, evidence)
        with contextlib.ExitStack() as stack:
            saved_model = stack.enter_context(
                _local(path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])))
            )
            # What the version was judged by stays with it: the watch over the model in service compares with that.
            evidence_folder = artifact_utils.get_single_uri(input_dict["evidence"])
            extra = {DOCUMENT_FILE: stack.enter_context(_local(evidence_folder)) / DOCUMENT_FILE}
            if input_dict.get("statistics"):
                for name, split in ((STATISTICS, "train"), (EVALUATION_STATISTICS, "eval")):
                    folder = artifact_utils.get_split_uri(input_dict["statistics"], split)
                    extra[name] = stack.enter_context(_local(folder)) / BINARY_PB_BASENAME
            version = repository.publish(
                saved_model,
                reason="; ".join(reasons),
                metadata={"window": json.loads(exec_properties["window"]), "baseline": baseline},
                extra=extra,
            )
        verdict: Literal["promote", "keep"] = "keep"
        if passed:
            try:
                repository.promote(version, "; ".join(reasons), replacing=baseline)
                verdict = "promote"
            except ServiceChanged as changed:
                reasons.append(f"{changed} since this run began; run again to compare with it")
        result = Verdict(
            verdict=verdict,
            version=version,
            stable=repository.labels().get("stable"),
            baseline=baseline,
            evidence=evidence.verdict,
            reasons=tuple(reasons),
            path=str(repository.path / str(version)),
        )
        logging.info("Version %d: %s. %s", version, verdict, "; ".join(reasons))
        promotion = artifact_utils.get_single_instance(output_dict["promotion"])
        result.write(promotion.uri)
        promotion.set_int_custom_property("version", version)
        promotion.set_string_custom_property("verdict", verdict)


def _evidence(input_dict: dict[str, list[types.Artifact]]) -> Evidence:
    with _local(artifact_utils.get_single_uri(input_dict["evidence"])) as folder:
        return read_evidence(folder)


def _judgement(input_dict: dict[str, list[types.Artifact]], evidence: Evidence) -> tuple[bool, list[str]]:
    """Whether both the gates and the evidence let the candidate into service, and why."""
    blessed, gates = _gates(input_dict)
    supported = evidence.verdict == "promote"
    shown = list(evidence.reasons) if evidence.rules or not supported else []
    if blessed and not supported:
        says = {"keep": "is against it", "not_enough_data": "is not enough to decide"}[evidence.verdict]
        return False, [f"the gates passed, but the evidence {says}", *shown]
    if supported and not blessed and evidence.rules:
        return False, ["the evidence is for it, but the gates did not pass", *gates, *shown]
    return blessed and supported, [*gates, *shown]


def _gates(input_dict: dict[str, list[types.Artifact]]) -> tuple[bool, list[str]]:
    """Whether the candidate passed the gates, and why."""
    evaluation = artifact_utils.get_single_uri(input_dict["evaluation"])
    compared = comparison(evaluation)
    reasons = explain_validation(evaluation)
    passed = fileio.exists(os.path.join(artifact_utils.get_single_uri(input_dict["blessing"]), _BLESSED))
    if passed:
        against = f"against version {compared['baseline']}"
        if compared["not_compared"]:
            against = f"by absolute floors alone, because {compared['not_compared']}"
        reasons = [f"passed all gates, {against}"]
    return passed, reasons or ["the evaluation gave no blessing"]


@contextlib.contextmanager
def _local(folder: str) -> Iterator[Path]:
    """The folder on a mounted file system: itself, or a copy of what is in a bucket."""
    if "://" not in folder:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as copy:
        io_utils.copy_dir(folder, copy)
        yield Path(copy)
