"""The whole pipeline on a small shop's logs, with its real components: from raw rows to the version in service."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from sklearn.metrics import log_loss, roc_auc_score

from components.log_example_gen.config import AttributionConfig, Window
from components.offline_ab import read_evidence
from models.encoder import Encoder
from models.preprocessing import table_rows, vocabulary_name
from pipeline.config import Config, load
from pipeline.simulator import expected_reconciliation
from pipeline.sweep.rows import Rows
from serving.model_repository import ModelRepository
from tests.warm import WarmPython

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))
from small_shop import CONFIG, FIRST_RUN, NEXT_DAY, Done, Shop, files, invoke, linked, open_shop  # noqa: E402

# The limit of a test holds for the runs in its fixtures too.
pytestmark = [pytest.mark.slow, pytest.mark.whole_run, pytest.mark.timeout(900)]

COMPONENTS = [
    "Baseline", "CuratedSchema", "LogExampleGen", "StatisticsGen", "ExampleValidator", "Transform", "Trainer",
    "Evaluator", "OfflineABTest", "ServingCheck", "Promotion",
]  # fmt: skip
OUTPUTS = ("pctr", "pcvr", "pctcvr")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def first(shop) -> Done:
    """The first run: no model is in service before."""
    return shop.run()


@dataclass(frozen=True)
class Joined:
    """Joined examples: serialized, and parsed into {(request_id, item_id): {column: values}} in the same order."""

    serialized: list[bytes]
    columns: dict[tuple[str, str], dict[str, list[Any]]]

    def labels(self, name: str) -> np.ndarray:
        return np.array([row[name][0] for row in self.columns.values()])


def read_joined(split: Path) -> Joined:
    serialized = list(tf.data.TFRecordDataset(sorted(map(str, split.iterdir()))).as_numpy_iterator())
    columns = {}
    for record in serialized:
        row = {}
        for name, column in tf.train.Example.FromString(record).features.feature.items():
            kind = column.WhichOneof("kind")
            values = list(getattr(column, kind).value) if kind else []
            row[name] = [v.decode() for v in values] if kind == "bytes_list" else values
        columns[row["request_id"][0], row["item_id"][0]] = row
    assert len(columns) == len(serialized)
    return Joined(serialized, columns)


@pytest.fixture(scope="module")
def evaluated(first) -> Joined:
    return read_joined(first.output("LogExampleGen", "examples") / "Split-eval")


def serving_default(model: Path, joined: Joined) -> dict[str, np.ndarray]:
    scores = tf.saved_model.load(str(model)).signatures["serving_default"](examples=tf.constant(joined.serialized))
    return {name: scores[name].numpy() for name in OUTPUTS}


@pytest.fixture(scope="module")
def served(shop, first, evaluated) -> dict[str, np.ndarray]:
    """Scores of the evaluation rows by the version in service, from the joined examples."""
    return serving_default(first.summary.served.path, evaluated)


def expected_metrics(joined: Joined, scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Metrics of each task by scikit-learn; those of pcvr on the clicked rows."""
    clicked = joined.labels("click") == 1
    metrics = {}
    for task, label, rows in (
        ("ctr", "click", slice(None)), ("cvr", "purchase", clicked), ("ctcvr", "purchase", slice(None)),
    ):  # fmt: skip
        y, p = joined.labels(label)[rows], scores["p" + task][rows].astype(np.float64)
        metrics[task] = {
            "rows": len(y),
            "base_rate": y.mean(),
            "auc": roc_auc_score(y, p),
            "log_loss": log_loss(y, p),
            "calibration": p.mean() / y.mean(),
        }
    return metrics


# The first run


def test_dirty_logs_become_a_version_in_service(shop, first):
    assert first.command.exit_code == 0, first.command.output
    assert list(first.states) == COMPONENTS
    # `seesaw schema` has joined the logs already.
    assert first.states == {
        name: "cached" if name in ("LogExampleGen", "StatisticsGen") else "done" for name in COMPONENTS
    }
    assert first.summary.verdict.verdict == "promote"
    assert first.summary.verdict.baseline is None
    assert ModelRepository(shop.repository, "ranker").labels() == {"stable": 1}
    assert json.loads(shop.labels_file.read_text())["stable"] == 1
    assert "version 1 went into service, the first model" in first.command.stdout
    assert "small-shop: training days 2026-01-01 to 2026-01-03, evaluation days 2026-01-04" in first.command.stdout


def test_reconciliation_is_the_truth(shop, first):
    report = json.loads((first.output("LogExampleGen", "report") / "report.json").read_text())
    truth = expected_reconciliation(
        shop.logs, Window.from_json(json.dumps(report["window"])),
        AttributionConfig.from_json(json.dumps(CONFIG["attribution"])),
    )  # fmt: skip
    found = {log: {key: counts[key] for key in ("read", "outcomes")} for log, counts in report["logs"].items()}
    assert found == truth["logs"]
    assert report["examples"] == truth["examples"]
    kinds = {
        (outcome, reason) for c in found.values() for outcome, reasons in c["outcomes"].items() for reason in reasons
    }
    assert kinds >= {
        ("joined", ""), ("duplicate", ""), ("rejected", "missing_column"), ("rejected", "missing_value"),
        ("rejected", "time_out_of_range"), ("outside_window", "other_days"), ("outside_window", "after_window"),
        ("orphan", "no_exposure"), ("orphan", "no_click"), ("orphan", "before_exposure"), ("orphan", "before_click"),
    }  # fmt: skip


def test_metrics_are_those_of_scikit_learn(first, evaluated, served):
    expected = expected_metrics(evaluated, served)
    assert [m.task for m in first.summary.candidate] == list(expected)
    shown = {line.split()[0]: line.split()[1:] for line in first.command.stdout.splitlines() if line.split()}
    for metrics in first.summary.candidate:
        values = expected[metrics.task]
        assert metrics.rows == values["rows"]
        # TFMA counts scores in 10,000 bins for the area under the curve.
        assert metrics.auc == pytest.approx(values["auc"], abs=1e-3)
        for name in ("base_rate", "log_loss", "calibration"):
            assert getattr(metrics, name) == pytest.approx(values[name], abs=1e-5), (metrics.task, name)
        cells = [float(cell.replace(",", "")) for cell in shown[metrics.task]]
        assert cells == pytest.approx(list(values.values()), abs=1.1e-3)


def test_evidence_of_a_first_model_has_its_values_alone(first, evaluated, served):
    evidence = first.summary.evidence
    assert (evidence.verdict, evidence.baseline, evidence.rules) == ("promote", None, ())
    expected = expected_metrics(evaluated, served)
    found = {(m.task, m.metric): m for m in evidence.metrics if not m.slice}
    for task, values in expected.items():
        assert found[task, "auc"].candidate.value == pytest.approx(values["auc"], abs=1e-6)
        assert found[task, "log_loss"].candidate.value == pytest.approx(values["log_loss"], abs=1e-5)
        assert found[task, "auc"].support.rows == values["rows"]
    assert found["ctcvr", "value@10"].candidate.value > 0
    assert first.output("OfflineABTest", "evidence").joinpath("evidence.json").exists()


def test_the_model_in_service_answers_as_the_trainer_without_python(shop, first):
    check = first.summary.serving_check
    assert check.blessed and check.reasons == ()
    assert {(p.signature, p.of) for p in check.parity} == {
        ("serving_default", "the trainer"), ("predict", "the trainer"), ("rank", "the trainer"),
        ("rank", "signature predict"),
    }  # fmt: skip
    assert all(p.difference <= 1e-5 for p in check.parity)
    assert [t.candidates for t in check.latency] == [100, 300, 1000]
    assert "scores within" in first.command.stdout and "ms by candidates (p50 / p99): 100: " in first.command.stdout
    # What was written for TF Serving is published with the model.
    published = ModelRepository(shop.repository, "ranker").stable().path
    files = first.output("ServingCheck", "blessing") / "files"
    names = [str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()]
    assert sorted(names) == ["assets.extra/tf_serving_warmup_requests", "batching_params.pbtxt"]
    assert all((published / name).read_bytes() == (files / name).read_bytes() for name in names)


def test_versions_are_compared_on_the_evaluation_days(shop, first, tmp_path):
    version = str(first.summary.served.path)
    words = ["compare", version, version, "--config", shop.config, "--logs", shop.logs, "--root", shop.root]
    done = invoke(*(str(w) for w in (*words, "--out", tmp_path / "comparison")))
    assert done.exit_code == 0, done.output
    found = read_evidence(tmp_path / "comparison")
    assert {m.difference.value for m in found.metrics} <= {0.0, None}
    assert next(m for m in found.metrics if (m.task, m.metric) == ("ctr", "auc")).difference.value == 0
    assert found.verdict == "promote"  # not worse, which is all that the rules ask
    assert found.data == first.summary.evidence.data


def test_a_sweep_takes_the_rows_that_the_run_transformed(shop, first, evaluated, tmp_path):
    small = {"trunk": {"name": "shared_bottom", "bottom": {"units": [8]}}, "heads": {"name": "plain", "tower": [4]}}
    sweep = {
        "models": {"small": small}, "balancers": {"static": {"name": "static"}}, "single_task": small, "seeds": 1,
        "tuning": {"trials": 1}, "replicates": 50,
    }  # fmt: skip
    options = ("--set", f"sweep={json.dumps(sweep)}", "--out", tmp_path, "--workers", 1)
    done = invoke("sweep", *shop.arguments(*options)[1:])
    assert done.exit_code == 0, done.output
    # A trial, the point that equal weights share with it, and a model of each task.
    assert len(list((tmp_path / "trainings").glob("*.json"))) == 4 and "failed" not in done.output
    assert "Take small with static weights 1 : 1" in done.output and (tmp_path / "sweep.html").exists()
    assert [c for c in done.output.splitlines() if c.startswith("[") and "done" in c] == []  # components: all cached

    rows = Rows.read(tmp_path / "rows")
    assert rows.days()["eval"] == (date.fromisoformat(FIRST_RUN),) * 2
    users = [row["user_id"][0] for row in evaluated.columns.values()]
    assert len(np.unique(rows.evaluation["@user"])) == len(set(users))
    transformed = first.output("Transform", "transformed_examples")
    for split, columns in (("train", rows.train), ("eval", rows.evaluation)):
        names = [name for name in columns if not name.startswith("@")]
        expected = read_transformed(first.output("Transform", "transform_graph"), transformed / f"Split-{split}", names)
        # Rows of the two stand in different orders.
        kept = [np.reshape(columns[name], (len(columns["@user"]), -1)).tolist() for name in names]
        assert sorted(expected) == sorted(zip(*(map(tuple, column) for column in kept)))


def read_transformed(graph: Path, split: Path, names: list[str]) -> list[tuple]:
    """Rows of transformed examples, each a tuple of a tuple per column."""
    spec = tft.TFTransformOutput(str(graph)).transformed_feature_spec()
    files = sorted(str(f) for f in split.iterdir())
    rows: list[tuple] = []
    compression = "GZIP" if files[0].endswith(".gz") else ""
    for batch in tf.data.TFRecordDataset(files, compression).batch(4096):
        found = tf.io.parse_example(batch, {name: spec[name] for name in names})
        columns = [np.reshape(found[name].numpy(), (len(batch), -1)).tolist() for name in names]
        rows += list(zip(*(map(tuple, column) for column in columns)))
    return rows


def test_second_run_is_served_from_the_cache(shop, first):
    with shop.unchanged():
        again = shop.run()
    assert again.command.exit_code == 0, again.command.output
    assert again.states == dict.fromkeys(COMPONENTS, "cached")
    assert "nothing changed: all 11 components were served from the cache" in again.command.stdout
    assert again.summary.result.outputs == first.summary.result.outputs
    assert [v.number for v in ModelRepository(shop.repository, "ranker").versions()] == [1]


# The same raw rows by three ways: the logs' own columns, the joined examples, the transformed examples


@pytest.fixture(scope="module")
def raw(shop, evaluated) -> list[dict[str, Any]]:
    """Rows of the exposure log as its files have them, in the order of the joined examples."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(shop.logs.glob("exposures/*/*.parquet")):
        for row in pq.ParquetFile(file).read().to_pylist():
            key = row.get("request_id"), str(row.get("item_id"))
            readable = key in evaluated.columns and row.get("time") is not None and "user_id" in row
            if readable and (key not in rows or row["time"] < rows[key]["time"]):
                rows[key] = row
    assert set(rows) == set(evaluated.columns)
    return [rows[key] for key in evaluated.columns]


def text(value: Any) -> str:
    return "" if value is None else str(value)


def test_raw_columns_score_as_the_joined_examples(first, raw, served):
    columns: dict[str, tf.Tensor] = {}
    for feature in CONFIG["features"]:
        values = [row.get(feature.get("column", feature["name"])) for row in raw]
        if feature["kind"] == "id":
            columns[feature["name"]] = tf.constant([text(v) for v in values])
        elif feature["kind"] == "id_list":
            lists = [[str(i) for i in v or ()] for v in values]
            longest = max(map(len, lists))
            columns[feature["name"]] = tf.constant([v + [""] * (longest - len(v)) for v in lists])
        else:
            columns[feature["name"]] = tf.constant([math.nan if v is None else v for v in values], tf.float32)
    assert any(row.get("device") is None for row in raw)
    assert any(not row["history"] for row in raw) and max(len(row["history"]) for row in raw) > 5
    scores = tf.saved_model.load(str(first.summary.served.path)).signatures["predict"](**columns)
    for name in OUTPUTS:
        assert served[name].std() > 0.01
        np.testing.assert_allclose(scores[name], served[name], rtol=0, atol=1e-5)


def test_transformed_examples_score_as_the_joined_examples(shop, first, raw, evaluated, served):
    transform = tft.TFTransformOutput(str(first.output("Transform", "transform_graph")))
    split = first.output("Transform", "transformed_examples") / "Split-eval"
    rows = tf.data.TFRecordDataset(sorted(map(str, split.iterdir())), "GZIP").batch(10**6)
    transformed = tf.io.parse_example(next(iter(rows)), transform.transformed_feature_spec())
    scores = trained_scores(
        load(shop.config), first.output("Trainer", "model") / "Format-Serving", transform, transformed
    )

    # Transformed examples have no keys. They are told apart by what their ids mean, read back from the
    # vocabularies, and matched with the logs' own values: no transform graph has a part in it.
    tokens = {
        name: [t.decode() for t in transform.vocabulary_by_name(vocabulary_name(name))]
        for name in ("user_id", "item_id", "device", "position")
    }
    meant = {name: ["", *known, "?"] for name, known in tokens.items()}
    there = {name: set(known) | {""} for name, known in tokens.items()}
    ids = {name: column.numpy() for name, column in transformed.items()}
    in_transformed = [
        (
            *(meant[name][ids[name][i]] for name in tokens),
            tuple(meant["item_id"][j] for j in ids["history"][i] if j),
            ids["hour"][i] - 1,
            (ids["click"][i], ids["purchase"][i]),
        )
        for i in range(len(ids["click"]))
    ]
    in_logs = [
        (
            *(t if (t := text(row.get(name))) in there[name] else "?" for name in tokens),
            tuple(str(j) if str(j) in there["item_id"] else "?" for j in row["history"][-5:]),
            sum(row["hour"] >= edge for edge in (8, 16)),
            (joined["click"][0], joined["purchase"][0]),
        )
        for row, joined in zip(raw, evaluated.columns.values())
    ]
    assert Counter(in_transformed) == Counter(in_logs)
    assert any(key[0] == "?" for key in in_logs) and any(key[2] == "" for key in in_logs)
    places = {key: i for i, key in enumerate(in_transformed)}
    counts = Counter(in_logs)
    once = [i for i, key in enumerate(in_logs) if counts[key] == 1]
    assert len(once) > 0.95 * len(in_logs)
    for name in OUTPUTS:
        matched = scores[name][[places[in_logs[i]] for i in once]]
        np.testing.assert_allclose(matched, served[name][once], rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.sort(scores[name]), np.sort(served[name]), rtol=0, atol=1e-5)


def trained_scores(
    config: Config, model: Path, transform: tft.TFTransformOutput, transformed: dict[str, tf.Tensor]
) -> dict[str, np.ndarray]:
    """Scores of transformed features by the trained weights alone, without the transform that is exported with them."""
    features = config.features
    encoder = Encoder(features, table_rows(features, transform), seed=0)
    trunk, heads = config.model.trunk.build(2, seed=0), config.model.heads.build(config.tasks, seed=0)
    heads(trunk(tf.zeros([1, encoder.dense_width])))  # makes the weights
    layers = {"encoder": encoder, "trunk": trunk, "heads": heads}
    weights = {name: tf.train.Checkpoint(variables=layer.weights) for name, layer in layers.items()}
    restored = tf.train.Checkpoint(**weights).read(str(model / "variables" / "variables"))
    restored.assert_existing_objects_matched()
    inputs = {feature.name: transformed[feature.name] for feature in features}
    logits = heads(trunk(encoder(inputs), training=False), training=False)
    pctr, pcvr = (1.0 / (1.0 + np.exp(-a.numpy().astype(np.float64))) for a in logits)
    return {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr}


# The next day: interrupted three times, then finished


@dataclass(frozen=True)
class Stop:
    """How an interrupted run of the next day ended, and the model repository after it."""

    exit_code: int
    output: str
    repository: dict[Path, bytes]

    @property
    def states(self) -> dict[str, str]:
        """Last state of each component that the command told of."""
        return dict(re.findall(r"^\[ *\d+/\d+\] (\w+) +([a-z ]*[a-z])", self.output, re.MULTILINE))


@dataclass(frozen=True)
class NextDay:
    shop: Shop
    before: dict[Path, bytes]
    stops: dict[str, Stop]
    done: Done


def killed(python: WarmPython, shop: Shop, where: str) -> Stop:
    """A run in a process of its own that dies at a place of killed_run.py."""
    script = str(Path(__file__).with_name("killed_run.py"))
    process = python.run(
        ["python", script, where, *shop.arguments(*TO_NEXT_DAY)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=shop.folder,
    )
    return Stop(process.returncode, process.stdout + process.stderr, files(shop.repository))


# The next day trains on a sample of the rows, for long enough to forget what the model in service had of all of them.
TO_NEXT_DAY = (
    "--last-day", NEXT_DAY, "--set", "sampling.keep.click=0.25", "--set", "sampling.keep.purchase=0.5",
    "--set", "training.epochs=12",
)  # fmt: skip


@pytest.fixture(scope="module")
def next_day(shop, first, warm_python) -> NextDay:
    shop = shop.with_repository("models-next-day")
    before = files(shop.repository)
    stops = {"training": killed(warm_python, shop, "training")}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        command = shop.run(*TO_NEXT_DAY).command
    stops["full disk"] = Stop(command.exit_code, command.output, files(shop.repository))
    stops["publish"] = killed(warm_python, shop, "publish")
    return NextDay(shop, before, stops, shop.run(*TO_NEXT_DAY))


def test_kill_in_training(next_day):
    stop = next_day.stops["training"]
    assert stop.exit_code == -signal.SIGKILL, stop.output
    assert list(stop.states.items())[-1] == ("Trainer", "running")
    assert stop.repository == next_day.before


def test_full_disk_while_publishing(next_day):
    stop = next_day.stops["full disk"]
    assert stop.exit_code == 1
    # The run after the kill goes on with the Trainer.
    assert stop.states == {
        **dict.fromkeys(COMPONENTS[:6], "cached"), "Trainer": "done", "Evaluator": "done", "OfflineABTest": "done",
        "ServingCheck": "done", "Promotion": "failed",
    }  # fmt: skip
    assert f"{next_day.shop.repository / 'ranker'}: no space left on the disk while publishing" in stop.output
    assert "the model in service is as it was" in stop.output
    assert stop.repository == next_day.before


def test_training_goes_on_where_it_was_killed(next_day):
    # Killed after the third step, with a checkpoint at every second one.
    record = next_day.done.output("Trainer", "model_run") / "training.json"
    assert json.loads(record.read_text())["resumed_at"] == [2]
    assert record.with_name("training.png").exists()
    # What was exported needs no checkpoint any more.
    assert list((next_day.shop.folder / "root" / "checkpoints").iterdir()) == []


def test_kill_in_promotion(next_day):
    stop = next_day.stops["publish"]
    assert stop.exit_code == -signal.SIGKILL, stop.output
    assert stop.states == {**dict.fromkeys(COMPONENTS[:10], "cached"), "Promotion": "running"}
    labels = Path("ranker/labels.json")
    assert stop.repository[labels] == next_day.before[labels]
    assert {path: stop.repository[path] for path in next_day.before} == next_day.before
    # The kill was late: the new version is in its place already, without a label.
    assert Path("ranker/2/saved_model.pb") in stop.repository


def test_next_run_ends_what_was_interrupted(next_day):
    done, repository = next_day.done, ModelRepository(next_day.shop.repository, "ranker")
    assert done.command.exit_code == 0, done.command.output
    assert done.states == {**dict.fromkeys(COMPONENTS[:10], "cached"), "Promotion": "done"}
    assert done.summary.verdict.verdict == "promote"
    assert done.summary.verdict.baseline == 1
    assert done.summary.verdict.reasons[0] == "passed all gates, against version 1"
    assert done.summary.verdict.reasons[1].startswith("ctr auc not worse by 0.1: passed, gain ")
    assert repository.labels() == {"stable": 2, "previous": 1}
    assert [v.number for v in repository.versions()] == [1, 2]
    assert [(h["action"], h["version"]) for h in repository.history()] == [
        ("publish", 1), ("promote", 1), ("publish", 2), ("promote", 2),
    ]  # fmt: skip
    assert [path.name for path in repository.path.glob(".publish-*")] == []
    assert "version 2 went into service, in place of version 1" in done.command.stdout


def test_candidate_and_model_in_service_score_the_same_rows(next_day):
    joined = read_joined(next_day.done.output("LogExampleGen", "examples") / "Split-eval")
    repository = ModelRepository(next_day.shop.repository, "ranker")
    for version, found in zip(repository.versions(), (next_day.done.summary.baseline, next_day.done.summary.candidate)):
        expected = expected_metrics(joined, serving_default(version.path, joined))
        assert {m.task: m.rows for m in found} == {task: values["rows"] for task, values in expected.items()}
        for metrics in found:
            assert metrics.auc == pytest.approx(expected[metrics.task]["auc"], abs=1e-3)
            assert metrics.log_loss == pytest.approx(expected[metrics.task]["log_loss"], abs=1e-5)


def test_probabilities_mean_the_same_where_training_saw_a_sample(next_day):
    examples = next_day.done.output("LogExampleGen", "examples")
    seen, whole = read_joined(examples / "Split-train"), read_joined(examples / "Split-eval")
    clicks, purchases = seen.labels("click"), seen.labels("purchase")
    expected_weight = np.where(purchases == 1, 1.0, np.where(clicks == 1, 2.0, 4.0))
    np.testing.assert_array_equal(seen.labels("weight"), expected_weight)
    np.testing.assert_array_equal(whole.labels("weight"), 1.0)
    # A model that took the sample for the world would say click more than twice as often, purchase three times.
    assert clicks.mean() > 2 * whole.labels("click").mean()
    assert purchases.mean() > 2.5 * whole.labels("purchase").mean()
    served = ModelRepository(next_day.shop.repository, "ranker").versions()[-1]
    metrics = expected_metrics(whole, serving_default(served.path, whole))
    # Of about 800 clicks and 250 purchases chance alone takes 4 % and 6 %, and as much of those trained on.
    assert metrics["ctr"]["calibration"] == pytest.approx(1.0, abs=0.15)
    assert metrics["cvr"]["calibration"] == pytest.approx(1.0, abs=0.25)
    assert metrics["ctcvr"]["calibration"] == pytest.approx(1.0, abs=0.25)


def test_warm_start_says_what_it_carried_over(first, next_day):
    def record(done: Done) -> dict[str, Any]:
        return json.loads((done.output("Trainer", "model_run") / "training.json").read_text())

    def tokens(done: Done, name: str) -> set[bytes]:
        transform = tft.TFTransformOutput(str(done.output("Transform", "transform_graph")))
        return set(transform.vocabulary_by_name(vocabulary_name(name)))

    assert record(first)["warm_start"] == "none: no model in service"
    common, now = 0, 0
    for name in ("user_id", "item_id", "device", "position"):
        old, new = tokens(first, name), tokens(next_day.done, name)
        # Padding and the one row of the unknown tokens are in both.
        common, now = common + len(old & new) + 2, now + len(new) + 2
    # seller: 20 hash buckets; price_band: 5 buckets; hour: 3; each with a row for a missing value.
    fixed = 21 + 6 + 4
    # A kernel and a bias of the trunk's layer, and of both layers of both towers.
    dense = 2 * (1 + 2 + 2)
    assert record(next_day.done)["warm_start"] == (
        f"{common + fixed} of {now + fixed} embedding rows and {dense} of {dense} dense weights carried over"
    )


# A worse candidate


def test_worse_candidate_does_not_go_into_service(shop, first):
    shop = shop.with_repository("models-worse")
    service = shop.labels_file.read_bytes()
    # Without training it gives each probability about one half: no floor, but the comparison, tells.
    options = ["optimizer.dense.learning_rate=1e-9", "optimizer.embedding.learning_rate=1e-9", "training.epochs=1",
               "training.warm_start=false"]  # fmt: skip
    done = shop.run(*(word for option in options for word in ("--set", option)))
    assert done.command.exit_code == 0, done.command.output
    assert (done.states["Transform"], done.states["Trainer"]) == ("cached", "done")
    assert done.summary.verdict.verdict == "keep"
    (reason,) = [r for r in done.summary.verdict.reasons if "log_loss" in r]
    assert "ctr" in reason
    labels = ModelRepository(shop.repository, "ranker").labels()
    assert labels == {"stable": 1, "candidate": 2}
    assert json.loads(service)["stable"] == 1
    assert "version 2 did not go into service; version 1 stayed in service" in done.command.stdout
    assert reason in done.command.stdout


# Bad input


@dataclass(frozen=True)
class Bad:
    """What is wrong with a run: a change of its logs, options of its command, and what the message must name."""

    names: tuple[str, ...]
    options: tuple[str, ...] = ()


def rewrite(file: Path, change) -> None:
    """Makes a Parquet file anew, with its table changed."""
    table = change(pq.ParquetFile(file).read())
    file.unlink()
    pq.write_table(table, file)


def as_text(table: pa.Table, name: str, value: str) -> pa.Table:
    """The table with this text in a column, if it has the column."""
    if name not in table.column_names:
        return table
    column = pa.array([value] * len(table))
    return table.set_column(table.schema.get_field_index(name), name, column)


def missing_day(logs: Path) -> Bad:
    for file in (logs / "exposures" / "2026-01-02").iterdir():
        file.unlink()
    return Bad(("exposures: no file for 2026-01-02", f"{logs}/exposures/2026-01-02/*.parquet"))


def missing_day_of_an_event(logs: Path) -> Bad:
    for file in (logs / "purchases" / "2026-01-03").iterdir():
        file.unlink()
    return Bad(("purchase: no file for 2026-01-03", f"{logs}/purchases/2026-01-03/*.parquet"))


def empty_day(logs: Path) -> Bad:
    for file in (logs / "exposures" / "2026-01-02").iterdir():
        rewrite(file, lambda table: table.slice(0, 0))
    return Bad(("exposures: the log of 2026-01-02 is empty", f"{logs}/exposures/2026-01-02/*.parquet"))


def empty_log(logs: Path) -> Bad:
    for file in logs.glob("clicks/*/*.parquet"):
        rewrite(file, lambda table: table.slice(0, 0))
    return Bad((f"click: the log is empty from 2026-01-01 to {FIRST_RUN}", f"{logs}/clicks/{{date}}/*.parquet"))


def unreadable_file(logs: Path) -> Bad:
    file = sorted((logs / "clicks" / "2026-01-02").iterdir())[0]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    return Bad((str(file.relative_to(logs)),))


def wrong_type_of_time(logs: Path) -> Bad:
    for file in logs.glob("clicks/*/*.parquet"):
        rewrite(file, lambda table: as_text(table, "time", "yesterday"))
    return Bad(("click: all", "rejected", "bad_time", "'time'", "yesterday"))


def wrong_type_of_a_feature(logs: Path) -> Bad:
    for file in logs.glob("exposures/*/*.parquet"):
        rewrite(file, lambda table: as_text(table, "price", "cheap"))
    return Bad(("exposures:", "'price'", "cheap"))


def absent_feature(logs: Path) -> Bad:
    return Bad(
        ("exposures: feature 'price' reads column 'price_paid', which no file has",),
        ("--set", "features.4.column=price_paid"),
    )


def one_class(logs: Path) -> Bad:
    for file in logs.glob("purchases/*/*.parquet"):
        rewrite(file, lambda table: as_text(table, "request_id", "elsewhere"))
    return Bad(("label 'purchase': expected both 0 and 1, found only 0",))


@pytest.mark.parametrize(
    "spoil",
    [missing_day, missing_day_of_an_event, empty_day, empty_log, unreadable_file, wrong_type_of_time,
     wrong_type_of_a_feature, absent_feature, one_class],
)  # fmt: skip
def test_bad_input(shop, first, tmp_path, spoil):
    bad = spoil(linked(shop.logs, tmp_path / "logs"))
    with shop.unchanged():
        done = shop.run(*bad.options, logs=tmp_path / "logs")
    assert done.command.exit_code == 1, done.command.output
    for name in bad.names:
        assert name in done.command.stderr
    assert "Traceback" not in done.command.stderr
    assert "not foreseen" not in done.command.stderr


def test_full_disk(shop, first, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(map(len, files(shop.repository).values())) + (3 << 20)  # the examples alone are larger
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "seesaw", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root rights")
    try:
        copy = Shop(shop.folder, disk / "models")
        for path, content in files(shop.repository).items():
            (copy.repository / path).parent.mkdir(parents=True, exist_ok=True)
            (copy.repository / path).write_bytes(content)
        with copy.unchanged():
            done = copy.run(root=disk / "root")
        assert done.command.exit_code == 1, done.command.output
        assert f"The disk is full: make room for {disk / 'root'}" in done.command.stderr
        assert "Traceback" not in done.command.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)
