"""Publishes the candidate and moves the labels as the gates decided."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Literal

from absl import logging
from tfx import types
from tfx.components.statistics_gen.stats_artifact_utils import BINARY_PB_BASENAME
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.baseline.layout import EVALUATION_STATISTICS, STATISTICS, baseline_version
from components.evaluator.results import comparison, explain_validation
from components.local_copy import local_folder
from components.offline_ab.document import DOCUMENT_FILE, Evidence, read_evidence
from components.promotion.verdict import Verdict
from components.serving_check.document import FILES, read_serving_check
from serving.model_repository import ModelRepository, ServiceChanged

_BLESSED = "BLESSED"


class Executor(base_executor.BaseExecutor):
    """Executor of Promotion.

    Input keys: model, baseline, blessing, evaluation, evidence, serving_check, statistics (optional).
    Output key: promotion. Parameters: repository, model_name, window.
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
        check_folder = artifact_utils.get_single_uri(input_dict["serving_check"])
        serving_check = read_serving_check(check_folder)
        if not serving_check.blessed:
            reasons = ["the serving check did not pass", *serving_check.reasons, *reasons]
            _conclude(output_dict, _kept_out(repository, baseline, evidence, reasons))
            return
        with contextlib.ExitStack() as stack:
            saved_model = stack.enter_context(
                local_folder(path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])))
            )
            # What the version was judged by stays with it: the watch over the model in service compares with that.
            evidence_folder = artifact_utils.get_single_uri(input_dict["evidence"])
            extra = {DOCUMENT_FILE: stack.enter_context(local_folder(evidence_folder)) / DOCUMENT_FILE}
            if input_dict.get("statistics"):
                for name, split in ((STATISTICS, "train"), (EVALUATION_STATISTICS, "eval")):
                    folder = artifact_utils.get_split_uri(input_dict["statistics"], split)
                    extra[name] = stack.enter_context(local_folder(folder)) / BINARY_PB_BASENAME
            version = repository.publish(
                saved_model,
                reason="; ".join(reasons),
                metadata={"window": json.loads(exec_properties["window"]), "baseline": baseline},
                extra=extra,
                beside=stack.enter_context(local_folder(os.path.join(check_folder, FILES))),
            )
        verdict: Literal["promote", "keep"] = "keep"
        if passed:
            try:
                repository.promote(version, "; ".join(reasons), replacing=baseline)
                verdict = "promote"
            except ServiceChanged as changed:
                reasons.append(f"{changed} since this run began; run again to compare with it")
        _conclude(
            output_dict,
            Verdict(
                verdict=verdict,
                version=version,
                stable=repository.labels().get("stable"),
                baseline=baseline,
                evidence=evidence.verdict,
                reasons=tuple(reasons),
                path=str(repository.path / str(version)),
            ),
        )


def _kept_out(repository: ModelRepository, baseline: int | None, evidence: Evidence, reasons: list[str]) -> Verdict:
    """Verdict on a candidate that is not published."""
    return Verdict(
        verdict="keep",
        version=None,
        stable=repository.labels().get("stable"),
        baseline=baseline,
        evidence=evidence.verdict,
        reasons=tuple(reasons),
        path=None,
    )


def _conclude(output_dict: dict[str, list[types.Artifact]], verdict: Verdict) -> None:
    logging.info("Version %s: %s. %s", verdict.version or "none", verdict.verdict, "; ".join(verdict.reasons))
    promotion = artifact_utils.get_single_instance(output_dict["promotion"])
    verdict.write(promotion.uri)
    promotion.set_int_custom_property("version", verdict.version or 0)
    promotion.set_string_custom_property("verdict", verdict.verdict)


def _evidence(input_dict: dict[str, list[types.Artifact]]) -> Evidence:
    with local_folder(artifact_utils.get_single_uri(input_dict["evidence"])) as folder:
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
