"""Reads what an evaluation found."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Literal

from tfx.dsl.io import fileio

COMPARISON_FILE = "comparison.json"
_METRICS = {
    "auc": "auc",
    "pr_auc": "auc_precision_recall",
    "log_loss": "binary_crossentropy",
    "calibration": "calibration",
    "base_rate": "mean_label",
}
_NAMES = {name: metric for metric, name in _METRICS.items()}


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of one probability on the rows on which it is judged.

    Attributes:
      task: name without the 'p'.
      slice: values of the slice's columns; empty for all rows.
      rows: number of rows: all exposures, or for a conditional task those that reached the step before.
      base_rate: mean of the label.
      auc, pr_auc: areas under the ROC and precision-recall curves.
      log_loss: mean, in nats.
      calibration: mean prediction over mean label.
    """

    task: str
    slice: tuple[tuple[str, str], ...]
    rows: int
    base_rate: float
    auc: float
    pr_auc: float
    log_loss: float
    calibration: float


def read_summary(
    evaluation_uri: str, *, model: Literal["candidate", "baseline"] = "candidate", by_slice: bool = False
) -> list[TaskMetrics]:
    """Metrics per task, in the order of the chain.

    Args:
      evaluation_uri: of the Evaluator's `evaluation`.
      model: whose; 'baseline' gives nothing where the candidate was not compared.
      by_slice: the slices after all rows, too.
    """
    import tensorflow_model_analysis as tfma

    compared = comparison(evaluation_uri)["not_compared"] is None
    if model == "baseline" and not compared:
        return []
    result = tfma.load_eval_result(evaluation_uri, model_name=model if compared else None)
    order = [spec.output_names[0] for spec in result.config.metrics_specs]
    rows = []
    for key, by_output in result.slicing_metrics:
        if key and not by_slice:
            continue
        for name in order:
            values = {m: _number(v) for m, v in by_output[name][""].items()}
            rows.append(
                TaskMetrics(
                    task=name.removeprefix("p"),
                    slice=tuple((str(column), str(value)) for column, value in key),
                    rows=round(values["example_count"]),
                    **{field: values[metric] for field, metric in _METRICS.items()},
                )
            )
    return sorted(rows, key=lambda row: (row.slice != (), [c for c, _ in row.slice], row.slice))


def comparison(evaluation_uri: str) -> dict[str, Any]:
    """`baseline`: number of the version in service or None; `not_compared`: why it was left out, None if it was not."""
    with fileio.open(os.path.join(evaluation_uri, COMPARISON_FILE), "r") as file:
        return json.loads(file.read())


def explain_validation(evaluation_uri: str) -> list[str]:
    """A line per gate that the candidate did not pass; empty where it passed all."""
    import tensorflow_model_analysis as tfma

    result = tfma.load_validation_result(evaluation_uri)
    reasons = []
    for validation in result.metric_validations_per_slice:
        where = ", ".join(f"{k.column} = {_slice_value(k)}" for k in validation.slice_key.single_slice_keys)
        for failure in validation.failures:
            task = failure.metric_key.output_name.removeprefix("p")
            metric = _NAMES.get(failure.metric_key.name, failure.metric_key.name)
            subject = f"{task} {metric}" + (f" where {where}" if where else "")
            reasons.append(f"{subject}: {_explain_failure(failure)}")
    if result.missing_slices:
        reasons.append("no rows to judge on")
    if not result.validation_ok and not reasons:
        reasons.append("the evaluation did not pass and gives no reason")
    return reasons


def _explain_failure(failure: Any) -> str:
    if not failure.HasField("metric_value"):
        return failure.message or "not computed"
    value = failure.metric_value.double_value.value
    if failure.metric_threshold.HasField("change_threshold"):
        change = failure.metric_threshold.change_threshold
        return (
            f"expected not worse than the model in service by more than {abs(change.absolute.value):g}, "
            f"found a difference of {value:+.6g}"
        )
    bounds = failure.metric_threshold.value_threshold
    expected = []
    if bounds.HasField("lower_bound"):
        expected.append(f"at least {bounds.lower_bound.value:g}")
    if bounds.HasField("upper_bound"):
        expected.append(f"at most {bounds.upper_bound.value:g}")
    return f"expected {' and '.join(expected)}, found {value:.6g}"


def _slice_value(key: Any) -> str:
    kind = key.WhichOneof("kind")
    value = getattr(key, kind) if kind else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(value: dict[str, Any]) -> float:
    return float(value.get("doubleValue", "nan"))
