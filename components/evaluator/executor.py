"""TFX's Evaluator, with a stated path for a run without a model to compare with."""

from __future__ import annotations

import json
import os
from typing import Any

from absl import logging
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator import executor as tfx_evaluator
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils, proto_utils

from components.baseline.layout import baseline_version, has_model
from components.evaluator.results import COMPARISON_FILE


class Executor(tfx_evaluator.Executor):
    """Executor of Evaluator.

    Input keys: examples, model, baseline_model. Output keys: evaluation, blessing. Parameters: eval_config,
    example_splits.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        config = config_pb2.EvalConfig()
        proto_utils.json_to_proto(exec_properties["eval_config"], config)
        baseline = artifact_utils.get_single_uri(input_dict["baseline_model"])
        obstacle = why_not_compared(baseline, config)
        if obstacle:
            logging.warning("First-run path: %s. The candidate is judged by absolute floors.", obstacle)
            input_dict = {key: value for key, value in input_dict.items() if key != "baseline_model"}
            exec_properties = {**exec_properties, "eval_config": proto_utils.proto_to_json(without_change(config))}
        super().Do(input_dict, output_dict, exec_properties)
        uri = artifact_utils.get_single_uri(output_dict["evaluation"])
        comparison = {"baseline": baseline_version(baseline), "not_compared": obstacle}
        io_utils.write_string_file(os.path.join(uri, COMPARISON_FILE), json.dumps(comparison))


def why_not_compared(baseline_uri: str, config: config_pb2.EvalConfig) -> str | None:
    """Why the baseline cannot be evaluated beside the candidate; None where it can."""
    if not has_model(baseline_uri):
        return "no model is in service"
    (model_spec,) = config.model_specs
    saved_model = saved_model_pb2.SavedModel()
    with fileio.open(os.path.join(path_utils.serving_model_dir(baseline_uri), "saved_model.pb"), "rb") as file:
        saved_model.ParseFromString(file.read())
    given = saved_model.meta_graphs[0].signature_def[model_spec.signature_name].outputs
    missing = sorted(set(model_spec.label_keys) - set(given))
    if missing:
        return f"the model in service (version {baseline_version(baseline_uri)}) has no output {', '.join(missing)}"
    return None


def without_change(config: config_pb2.EvalConfig) -> config_pb2.EvalConfig:
    """The configuration without the thresholds that need a baseline."""
    floors = config_pb2.EvalConfig()
    floors.CopyFrom(config)
    for spec in floors.metrics_specs:
        for metric in spec.metrics:
            for rule in metric.per_slice_thresholds:
                rule.threshold.ClearField("change_threshold")
            floors_of_metric = [rule for rule in metric.per_slice_thresholds if rule.threshold.ByteSize()]
            del metric.per_slice_thresholds[:]
            metric.per_slice_thresholds.extend(floors_of_metric)
    return floors
