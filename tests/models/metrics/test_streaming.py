import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from sklearn import metrics as reference

from models.metrics.streaming import binned_metrics, pointwise_metrics
from tests.models.metrics.conftest import sample


@pytest.mark.parametrize("batch", [64, 1000, 5000])
def test_batches_give_the_metrics_of_all_rows(batch):
    rows = sample(5000, tied=False)
    y, p, w = rows["labels"], rows["scores"], rows["weights"]
    found = [pointwise_metrics("ctr"), binned_metrics("ctr")]

    @tf.function
    def step(*columns):
        for metric in found:
            metric.update_state(*columns)

    for start in range(0, len(y), batch):
        part = slice(start, start + batch)
        step(*(tf.constant(column[part], tf.float32) for column in (y, p, w)))
    values = {name: float(v) for m in found for name, v in m.result().items()}
    assert values["ctr_log_loss"] == pytest.approx(reference.log_loss(y, p, sample_weight=w), abs=1e-6)
    assert values["ctr_calibration"] == pytest.approx((w * p).sum() / (w * y).sum(), abs=1e-6)
    assert values["ctr_auc"] == pytest.approx(reference.roc_auc_score(y, p, sample_weight=w), abs=1e-3)
    assert values["ctr_pr_auc"] == pytest.approx(reference.average_precision_score(y, p, sample_weight=w), abs=1e-3)
    for metric in found:
        metric.reset_state()
        assert not metric.sums.numpy().any()


class Model(keras.Sequential):
    train_step = tf.autograph.experimental.do_not_convert(keras.Sequential.train_step)  # which takes seconds
    test_step = tf.autograph.experimental.do_not_convert(keras.Sequential.test_step)
    predict_step = tf.autograph.experimental.do_not_convert(keras.Sequential.predict_step)


def test_keras_reports_them_while_it_trains():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    model = Model([keras.layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=[pointwise_metrics("p"), binned_metrics("b")])
    history = model.fit(x, y, epochs=1, batch_size=128, verbose=0).history
    assert history.keys() >= {"p_log_loss", "p_normalised_entropy", "b_auc", "b_ece"}
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    p = model.predict(x, verbose=0)[:, 0]
    assert evaluated["b_auc"] == pytest.approx(reference.roc_auc_score(y, p), abs=1e-3)
    assert evaluated["p_log_loss"] == pytest.approx(evaluated["loss"], abs=1e-5)


def test_a_diverged_model_has_no_metrics_and_no_error():
    for metric in (pointwise_metrics("ctr"), binned_metrics("ctr")):
        metric.update_state(tf.constant([1.0, 0.0]), tf.constant([np.nan, 0.1]))
        assert all(np.isnan(float(v)) for v in metric.result().values())


def test_rows_without_a_label_do_not_count():
    metric = pointwise_metrics("cvr")
    metric.update_state(tf.constant([1.0, np.nan, 0.0]), tf.constant([0.9, 0.5, 0.1]))
    expected = reference.log_loss([1, 0], [0.9, 0.1])
    assert float(metric.result()["cvr_log_loss"]) == pytest.approx(expected, abs=1e-6)
