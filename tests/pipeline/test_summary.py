from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow as tf
from rich.console import Console

from components.evaluator import TaskMetrics
from components.offline_ab.document import (
    Data,
    Estimate,
    Evidence,
    MetricResult,
    Scorer,
    Settings,
    Support,
)
from components.promotion import Verdict
from components.serving_check import ServingVerdict
from components.serving_check.document import Latency, Parity
from models.features import BucketedFeature, IdFeature, IdListFeature, NumberFeature
from pipeline.local_runner import RunResult
from pipeline.progress import ComponentRun
from pipeline.summary import ServedPrediction, Summary, first_example, predict, raw_row, render
from serving.model_repository import Version

FEATURES = (
    IdFeature(name="user", kind="id", side="user"),
    IdListFeature(name="history", kind="id_list", side="user", max_length=3),
    NumberFeature(name="price", kind="number", side="item"),
    BucketedFeature(name="band", kind="bucketed", column="price", side="item", boundaries=(1.0,)),
)
LONG = Path("/a/root/with/a/name/that/is/so/long/that/it/would/be/broken/at/eighty/columns/artifacts/Evaluator/7")


def example(**columns):
    def feature(value):
        if isinstance(value[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        if isinstance(value[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=value))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    features = tf.train.Features(feature={name: feature(value) for name, value in columns.items()})
    return tf.train.Example(features=features)


def metrics(task, auc):
    return TaskMetrics(task, (), 12345, 0.0625, auc, 0.1, 0.234567, 1.0123)


def gain(task, value, half):
    return MetricResult(
        task=task,
        metric="auc",
        better="higher",
        baseline=Estimate(value=0.7),
        candidate=Estimate(value=0.7 + value),
        difference=Estimate(value=value, low=value - half, high=value + half),
        support=Support(rows=12345, users=1000, positives=700),
    )


EVIDENCE = Evidence(
    verdict="promote",
    reasons=(),
    baseline=Scorer(name="version 3", source="/models/shop/3", version=3),
    candidate=Scorer(name="candidate", source="/run/model"),
    data=Data(
        rows=12345, users=1000, requests=3000, first_time_ms=0, last_time_ms=1, positives={}, missing={}, source=""
    ),
    settings=Settings(confidence=0.95, replicates=500, seed=0, minimum_users=100, minimum_positives=50),
    rules=(),
    metrics=(gain("ctr", 0.0111, 0.0042), gain("cvr", -0.002, 0.0315), gain("ctcvr", 0.01, 0.02)),
)
SUMMARY = Summary(
    result=RunResult(
        "2026-01-31T08-00-00.000",
        LONG,
        (ComponentRun("LogExampleGen", "cached", 0.1), ComponentRun("Trainer", "done", 59.8)),
    ),
    candidate=[metrics("ctr", 0.71239), metrics("cvr", 0.68), metrics("ctcvr", 0.8)],
    baseline=[metrics("ctr", 0.70127), metrics("cvr", 0.67), metrics("ctcvr", 0.79)],
    evidence=EVIDENCE,
    serving_check=ServingVerdict(
        blessed=True,
        reasons=(),
        load_seconds=1.5,
        parity=(
            Parity(signature="predict", of="the trainer", rows=1000, requests=1, difference=0.0),
            Parity(signature="rank", of="the trainer", rows=1000, requests=90, difference=1.8e-7),
        ),
        latency=(
            Latency(signature="rank", candidates=100, runs=100, p50_ms=2.25, p99_ms=4.0),
            Latency(signature="rank", candidates=1000, runs=100, p50_ms=7.7, p99_ms=24.15),
        ),
    ),
    verdict=Verdict("promote", 4, 4, 3, "promote", ("passed all gates, against version 3",), "/models/shop/4"),
    model_name="shop",
    served=Version(4, Path("/models/shop/4")),
    prediction=ServedPrediction(
        {"user": ["17"], "history": [str(1000 + i) for i in range(40)], "price": [12.5], "band": []},
        {"click": 1, "purchase": 0},
        {"pctr": 0.0625, "pcvr": 0.5, "pctcvr": 0.03125},
    ),
    warm_start="12 of 20 embedding rows and 4 of 4 dense weights carried over",
    places={"evaluation": LONG},
)


def rendered(summary, width=80):
    stream = io.StringIO()
    render(summary, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_render(width):
    text = rendered(SUMMARY, width)
    lines = text.splitlines()
    assert "1 of 2 components ran, the others were served from the cache (60 s)" in lines
    header = next(line for line in lines if line.startswith("task"))
    assert " ".join(header.split()) == "task rows base rate AUC log loss calibration AUC over v3's"
    ctr = next(line for line in lines if line.startswith("ctr"))
    assert ctr.split() == ["ctr", "12,345", "0.0625", "0.7124", "0.2346", "1.012", "+0.0111", "±", "0.0042"]
    assert "version 4 went into service, in place of version 3" in text
    assert "- passed all gates, against version 3" in text
    assert "shop, version 4" in text
    assert "serving check    scores within 2e-07 of the trainer's, without Python" in lines
    assert f"{'':16} ms by candidates (p50 / p99): 100: 2.2 / 4.0, 1,000: 7.7 / 24.1" in lines
    assert "pctr 0.062500   pcvr 0.500000   pctcvr 0.031250" in lines
    assert "click 1, purchase 0" in text
    assert next(line for line in lines if line.startswith("band")).split() == ["band", "(missing)"]
    history = next(line for line in lines if line.startswith("history"))
    assert history.endswith("… (40 values)")
    assert str(LONG) in text  # paths are not broken
    assert max(len(line) for line in lines if str(LONG) not in line) <= width


def test_render_when_nothing_changed():
    cached = tuple(replace(c, state="cached") for c in SUMMARY.result.components)
    text = rendered(replace(SUMMARY, result=replace(SUMMARY.result, components=cached)))
    assert "nothing changed: all 2 components were served from the cache" in text


def test_render_of_a_first_candidate_that_failed_the_gates():
    verdict = Verdict(
        "keep", 1, None, None, "promote", ("ctr auc: expected at least 0.6, found [0.49]",), "/models/shop/1"
    )
    text = rendered(
        replace(
            SUMMARY,
            baseline=[],
            evidence=EVIDENCE.model_copy(update={"baseline": None}),
            verdict=verdict,
            served=None,
            prediction=None,
        )
    )
    assert "AUC over" not in text
    assert "version 1 did not go into service; no model is in service" in text
    assert "- ctr auc: expected at least 0.6, found [0.49]" in text
    assert "no model yet" in text
    assert "pctr" not in text


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict("promote", 1, 1, None, "promote", (), ""), "version 1 went into service, the first model"),
        (Verdict("keep", 5, 4, 4, "keep", (), ""), "version 5 did not go into service; version 4 stayed in service"),
    ],
)
def test_decision(verdict, expected):
    assert expected in rendered(replace(SUMMARY, verdict=verdict))


def test_a_candidate_that_cannot_be_served():
    reasons = ("the serving check did not pass", "rank: expected finite numbers as pctr")
    refused = ServingVerdict(blessed=False, reasons=reasons[1:])
    verdict = Verdict("keep", None, 3, 3, "promote", reasons, None)
    text = rendered(replace(SUMMARY, serving_check=refused, verdict=verdict))
    assert "the candidate did not go into service; version 3 stayed in service" in text
    assert "serving check    not passed" in text and "- rank: expected finite numbers as pctr" in text


def test_first_example(tmp_path):
    # The first file is empty, as shards may be.
    for i, rows in enumerate([[], [example(user=[b"1"]), example(user=[b"2"])]]):
        with tf.io.TFRecordWriter(str(tmp_path / f"data_tfrecord-0000{i}-of-00002")) as writer:
            for row in rows:
                writer.write(row.SerializeToString())
    assert first_example(tmp_path).features.feature["user"].bytes_list.value == [b"1"]
    with pytest.raises(FileNotFoundError, match="no example in 0 files"):
        first_example(tmp_path / "other")


def test_raw_row():
    row, labels = raw_row(
        example(user=["ü".encode()], history=[b"3", b"5"], price=[2.5], click=[1]), FEATURES, ["click", "purchase"]
    )
    assert row == {"user": ["ü"], "history": ["3", "5"], "price": [2.5], "band": []}
    assert labels == {"click": 1, "purchase": 0}


class Model(tf.Module):
    """Gives back what it was given: how many values of the history are there, and the price."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="user"),
            tf.TensorSpec([None, None], tf.string, name="history"),
            tf.TensorSpec([None], tf.float32, name="price"),
            tf.TensorSpec([None], tf.float32, name="band"),
        ]
    )
    def predict(self, user, history, price, band):
        present = tf.cast(tf.strings.length(history) > 0, tf.float32)
        return {
            "pctr": tf.reduce_sum(present, axis=1) / 10,
            "pcvr": tf.where(tf.math.is_nan(price), -1.0, price),
            "puser": tf.cast(user == "17", tf.float32),
            "pband": tf.cast(tf.math.is_nan(band), tf.float32),
        }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"user": ["17"], "history": ["3", "5"], "price": [2.5], "band": [2.5]}, [0.2, 2.5, 1, 0]),
        ({"user": [], "history": [], "price": [], "band": []}, [0, -1, 0, 1]),
    ],
)
def test_predict_passes_raw_values_and_missing_ones(tmp_path, row, expected):
    model = Model()
    tf.saved_model.save(model, str(tmp_path), signatures={"predict": model.predict})
    names = ["pctr", "pcvr", "puser", "pband"]
    assert list(predict(tmp_path, row, names).values()) == pytest.approx(expected)
    # Of an earlier configuration: the model knows neither the row's new feature nor the new output.
    later = predict(tmp_path, row | {"new": [1.0]}, [*names, "pother"])
    assert list(later.values()) == pytest.approx(expected)


def test_a_row_of_many_features_is_cut_short():
    row = {f"feature_{i:02}_with_a_long_name": [float(i)] for i in range(30)}
    lines = rendered(replace(SUMMARY, prediction=replace(SUMMARY.prediction, row=row))).splitlines()
    shown = [line for line in lines if line.startswith("feature_")]
    assert len(shown) == 13 and {line.split()[0] for line in shown} == set(list(row)[:13])
    assert {line.rindex(" ") + 1 for line in shown} == {len("feature_00_with_a_long_name ")}
    assert any("and 17 more features" in line for line in lines)
