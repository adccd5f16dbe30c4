"""What TFMA computes, and the thresholds it holds against a candidate."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_model_analysis.proto import config_pb2

from components.evaluator import metrics
from components.evaluator.config import EvaluationConfig, Gate, check_gates
from models.tasks import TaskConfig, outputs

METRICS = (
    "ExampleCount",
    "AUC",
    "AUCPrecisionRecall",
    "BinaryCrossEntropy",
    "Calibration",
    "MeanLabel",
    "MeanPrediction",
)
_MORE = {"normalised_entropy": "NormalisedEntropy", "gauc": "Gauc"}
_GATED = {"auc": "AUC", "log_loss": "BinaryCrossEntropy", "calibration": "Calibration"}


def build_eval_config(
    tasks: tuple[TaskConfig, ...], evaluation: EvaluationConfig, gates: Sequence[Gate]
) -> config_pb2.EvalConfig:
    """Metrics of every output on the rows on which it can be judged, overall and by slice.

    A conditional output such as pcvr is weighted by the label before it, so it counts clicked rows only.
    Gates apply to all rows together. Where none of them is a floor, the first task's AUC must be at least
    0.5, because the first candidate ever has no other to be compared with.

    Raises:
      UserError: naming the gate that repeats another or is about an unknown task.
    """
    chain = outputs(tasks)
    by_metric: dict[tuple[str, str], Gate] = {(g.task, g.metric): g for g in check_gates(tuple(gates), tasks)}
    if not any(gate.is_floor for gate in gates):
        first = (chain[0].task, "auc")
        margin = by_metric[first].not_worse_by if first in by_metric else None
        by_metric[first] = Gate(task=first[0], metric="auc", at_least=0.5, not_worse_by=margin)

    config = config_pb2.EvalConfig()
    config.model_specs.add(
        signature_name="serving_default",
        label_keys={o.name: o.label for o in chain},
        example_weight_keys={o.name: o.given for o in chain if o.given},
    )
    config.slicing_specs.add()
    for columns in evaluation.slices:
        config.slicing_specs.add(feature_keys=columns)
    for output in chain:
        spec = config.metrics_specs.add(output_names=[output.name])
        thresholds = {_GATED[m]: _threshold(g) for (task, m), g in by_metric.items() if task == output.task}
        for name in METRICS:
            metric = spec.metrics.add(class_name=name)
            if name in thresholds:
                # MetricConfig.threshold would hold for every slice, down to those with one class only.
                metric.per_slice_thresholds.add(slicing_specs=[config_pb2.SlicingSpec()], threshold=thresholds[name])
        for more in evaluation.more_metrics:
            spec.metrics.add(class_name=_MORE[more], module=metrics.__name__)
    return config


def _threshold(gate: Gate) -> config_pb2.MetricThreshold:
    threshold = config_pb2.MetricThreshold()
    if gate.at_least is not None:
        threshold.value_threshold.lower_bound.value = gate.at_least
    if gate.at_most is not None:
        threshold.value_threshold.upper_bound.value = gate.at_most
    if gate.not_worse_by is not None:
        change = threshold.change_threshold
        if gate.metric == "auc":
            change.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
            change.absolute.value = -gate.not_worse_by
        else:
            change.direction = config_pb2.MetricDirection.LOWER_IS_BETTER
            change.absolute.value = gate.not_worse_by
    return threshold
