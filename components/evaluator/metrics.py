"""Normalised entropy and GAUC as TFMA metrics, over the same sums as everywhere else.

TFMA hands a metric one row at a time, so rows are kept in lists and summed up many at a time. The metrics per request
are not here: TFMA's query metrics evaluate the whole model per request, and the offline comparison has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2

from models import metrics

_ROWS = 4096


class NormalisedEntropy(metric_types.Metric):
    """Log loss over that of always predicting the base rate."""

    def __init__(self, name: str = "normalised_entropy"):
        super().__init__(metric_util.merge_per_key_computations(_normalised_entropy), name=name)


class Gauc(metric_types.Metric):
    """AUC within each user, weighed by impressions.

    Args:
      user: feature with the user.
    """

    def __init__(self, name: str = "gauc", user: str = "user_id"):
        super().__init__(metric_util.merge_per_key_computations(_gauc), name=name, user=user)


metric_types.register_metric(NormalisedEntropy)
metric_types.register_metric(Gauc)


def _normalised_entropy(
    name: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
    combiner = SumsOfRows(
        key, eval_config, None, _pointwise, lambda state: float(metrics.normalised_entropy(np.asarray(state)))
    )
    return [metric_types.MetricComputation([key], None, combiner)]


def _gauc(
    name: str,
    user: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
    preprocessor = metric_types.FeaturePreprocessor(feature_keys=[user])
    combiner = SumsOfRows(key, eval_config, user, _grouped, lambda state: metrics.gauc(state).mean)
    return [metric_types.MetricComputation([key], [preprocessor], combiner)]


def _pointwise(users: list[Any], labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Any:
    return metrics.pointwise_sums(labels, scores, weights)


def _grouped(users: list[Any], labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Any:
    return metrics.group_sums(metrics.hash_ids(np.array(users, dtype=object)), labels, scores, weights)


class SumsOfRows(beam.CombineFn):
    """Rows -> a state of `models.metrics` -> a metric.

    Args:
      key: of the metric.
      eval_config: of the evaluation.
      user: feature with the user, None where it is not needed.
      sums: from users, labels, scores and weights of some rows to their state; states add up.
      value: from a state to the metric.
    """

    def __init__(
        self,
        key: metric_types.MetricKey,
        eval_config: config_pb2.EvalConfig | None,
        user: str | None,
        sums: Callable[[list[Any], np.ndarray, np.ndarray, np.ndarray], Any],
        value: Callable[[Any], float],
    ):
        self._key, self._eval_config, self._user = key, eval_config, user
        self._sums, self._value = sums, value

    def create_accumulator(self) -> list[Any]:
        return [None, []]

    def add_input(self, accumulator: list[Any], element: metric_types.StandardMetricInputs) -> list[Any]:
        user = None
        if self._user is not None:
            values = np.asarray(element.features[self._user]).reshape(-1)
            user = values[0] if len(values) else b""
        for label, prediction, weight in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            example_weighted=self._key.example_weighted,
        ):
            accumulator[1].append((user, float(label.item()), float(prediction.item()), float(weight.item())))
        return self._summed(accumulator) if len(accumulator[1]) >= _ROWS else accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            state = self._summed(accumulator)[0]
            if state is not None:
                merged[0] = state if merged[0] is None else merged[0] + state
        return merged

    def compact(self, accumulator: list[Any]) -> list[Any]:
        return self._summed(accumulator)

    def extract_output(self, accumulator: list[Any]) -> dict[metric_types.MetricKey, float]:
        state = self._summed(accumulator)[0]
        return {self._key: float("nan") if state is None else self._value(state)}

    def _summed(self, accumulator: list[Any]) -> list[Any]:
        state, rows = accumulator
        if not rows:
            return accumulator
        users, labels, scores, weights = (list(column) for column in zip(*rows))
        found = self._sums(users, np.array(labels), np.array(scores), np.array(weights))
        return [found if state is None else state + found, []]
