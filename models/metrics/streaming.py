"""Keras metrics over the sums of this package, for batches as they come.

Their state is a float64 variable that adds up over steps and replicas, and they are exactly the functions that the
evaluation and the offline comparison use, called from the graph: on the host, so not within XLA, and not in a
SavedModel. AUC and PR-AUC are binned; `auc_bound` and `pr_auc_bounds` say how far the exact ones can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from models.metrics import histogram, pointwise

Sums = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class StreamingMetrics(keras.metrics.Metric):
    """Several metrics of the same sums.

    Args:
      name: of the metric.
      shape: of the sums.
      sums: from labels, scores and weights of a batch to its sums, float64 [shape].
      values: by name, from sums to a metric.
    """

    def __init__(
        self, name: str, shape: Sequence[int], sums: Sums, values: Mapping[str, Callable[[np.ndarray], Any]]
    ) -> None:
        super().__init__(name=name, dtype=tf.float64)
        self._of_batch, self._values = sums, values
        self.sums = self.add_weight(name="sums", shape=tuple(shape), initializer="zeros", dtype=tf.float64)

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> tf.Operation:
        """Adds a batch: labels 0, 1 or NaN where missing, probabilities, weights; [batch] each."""
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.float64)
        scores = tf.cast(tf.reshape(y_pred, [-1]), tf.float64)
        if sample_weight is None:
            weights = tf.ones_like(labels)
        else:
            weights = tf.cast(tf.reshape(sample_weight, [-1]), tf.float64)

        def sums(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
            # A model that has diverged has no metrics; that is for its trainer to say.
            return self._of_batch(y, p, w) if np.isfinite(p).all() else np.full(self.sums.shape, np.nan)

        found = tf.numpy_function(sums, [labels, scores, weights], tf.float64, stateful=False)
        return self.sums.assign_add(tf.ensure_shape(found, self.sums.shape))

    def result(self) -> dict[str, tf.Tensor]:
        def all_values(sums: np.ndarray) -> np.ndarray:
            return np.array([float(f(sums)) for f in self._values.values()])

        found = tf.numpy_function(all_values, [self.sums], tf.float64, stateful=False)
        return dict(zip(self._values, tf.unstack(tf.ensure_shape(found, [len(self._values)]))))

    def reset_state(self) -> None:
        self.sums.assign(tf.zeros_like(self.sums))


def pointwise_metrics(name: str) -> StreamingMetrics:
    """Log loss, normalised entropy and calibration, named `<name>_log_loss` and so on."""
    found = ("log_loss", "normalised_entropy", "calibration")
    values = {f"{name}_{metric}": getattr(pointwise, metric) for metric in found}
    return StreamingMetrics(f"{name}_pointwise", [4], pointwise.pointwise_sums, values)


def binned_metrics(name: str) -> StreamingMetrics:
    """AUC, PR-AUC and ECE from binned scores, named `<name>_auc` and so on."""
    values = {
        f"{name}_auc": histogram.binned_auc,
        f"{name}_pr_auc": histogram.binned_pr_auc,
        f"{name}_ece": histogram.expected_calibration_error,
    }
    return StreamingMetrics(f"{name}_binned", [3, histogram.BINS], histogram.histogram_sums, values)
