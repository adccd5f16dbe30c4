"""The check of an exported model: what it blesses, and what it refuses with which reason."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from components.serving_check.check import check_model
from components.serving_check.config import LatencyBudget, ServingCheckConfig
from components.serving_check.document import read_serving_check
from components.trainer.reference import Reference
from models.presets import ModelConfig
from models.tasks import DEFAULT_TASKS
from serving.model_repository import ModelRepository
from serving.server.loaded import LoadedModel
from serving.signatures import export
from tests.serving.exported import make_ranker
from tests.serving.versions import shifted
from tests.transforms import FEATURES, raw_rows, serialize

ROWS = 120
SIZES = (LatencyBudget(candidates=5), LatencyBudget(candidates=50))
CONFIG = ServingCheckConfig(rows=100, latency=SIZES, runs=10)
MODEL = ModelConfig(preset="shared_bottom")


@pytest.fixture(scope="module")
def trained(transform, tmp_path_factory):
    """An exported model, raw examples in two files, and the Keras model's scores of some of them, in another order."""
    folder = tmp_path_factory.mktemp("trained")
    ranker = make_ranker(transform, model=MODEL)
    for weight in ranker.trainable_weights:
        weight.assign(weight + tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.3))
    export(ranker, transform, FEATURES, folder / "model", MODEL.model_dump(mode="json"))
    examples = [serialize(row) for row in raw_rows(ROWS - 1)]
    assert len(examples) == ROWS
    for number, part in enumerate((examples[:50], examples[50:])):
        with tf.io.TFRecordWriter(str(folder / f"part-{number}")) as writer:
            for example in part:
                writer.write(example)
    spec = {name: kind for name, kind in transform.raw_feature_spec().items() if name in {f.name for f in FEATURES}}
    transformed = transform.transform_features_layer()(tf.io.parse_example(examples, spec))
    order = np.random.default_rng(0).permutation(ROWS)[:110]
    features = {f.name: tf.gather(transformed[f.name], order) for f in FEATURES}
    scores = {name: values.numpy() for name, values in ranker(features).items()}
    return folder, Reference({name: values.numpy() for name, values in features.items()}, scores)


def check(trained, files, *, model=None, reference=None, config=CONFIG):
    folder, of_trainer = trained
    parts = sorted(map(str, folder.glob("part-*")))
    return check_model(
        model or folder / "model", parts, reference or of_trainer, DEFAULT_TASKS, config, name="ranker", files=files
    )


@pytest.fixture(scope="module")
def blessed(trained, tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    return check(trained, files), files


def test_a_model_that_scores_as_the_trainer_does_is_blessed(blessed):
    verdict, _ = blessed
    assert verdict.blessed and verdict.reasons == ()
    assert 0 < verdict.load_seconds < 120
    assert [(p.signature, p.of) for p in verdict.parity] == [
        ("serving_default", "the trainer"), ("predict", "the trainer"), ("rank", "the trainer"),
        ("rank", "signature predict"),
    ]  # fmt: skip
    assert all(p.difference < 1e-6 for p in verdict.parity)
    assert [p.rows for p in verdict.parity] == [100, 100, 100, 1000]
    assert [(t.signature, t.candidates) for t in verdict.latency] == [("rank", 5), ("rank", 50)]
    assert all(0 < t.p50_ms <= t.p99_ms for t in verdict.latency)


def test_the_verdict_is_read_as_it_was_written(blessed, tmp_path):
    verdict, _ = blessed
    verdict.write(str(tmp_path))
    assert read_serving_check(str(tmp_path)) == verdict
    assert (tmp_path / "INFRA_BLESSED").exists()


def test_warm_up_requests_are_published_with_the_model_and_run_before_it_serves(trained, blessed, tmp_path):
    folder, _ = trained
    _, files = blessed
    repository = ModelRepository(tmp_path, "ranker")
    version = tmp_path / "ranker" / str(repository.publish(folder / "model", reason="test", beside=files))
    assert "max_batch_size { value: 50 }" in (version / "batching_params.pbtxt").read_text()
    warm_up = version / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(warm_up)).as_numpy_iterator()
    ]
    asked = [log.predict_log.request.model_spec for log in logs]
    assert [spec.name for spec in asked] == ["ranker"] * 6
    assert [spec.signature_name for spec in asked] == ["serving_default"] * 2 + ["predict"] * 2 + ["rank"] * 2
    assert [len(log.predict_log.request.inputs["item"].string_val) for log in logs[2:]] == [1, 100, 5, 50]

    ran = []

    class Noting(LoadedModel):
        def run(self, signature, inputs, outputs=()):
            ran.append(signature)
            return super().run(signature, inputs, outputs)

    Noting(version).close()
    assert ran == [spec.signature_name for spec in asked]


def test_the_library_knows_nothing_of_what_publishing_adds(trained, blessed, tmp_path):
    """The same model is the same version, whatever was measured on it."""
    folder, _ = trained
    _, files = blessed
    repository = ModelRepository(tmp_path, "ranker")
    assert repository.publish(folder / "model", reason="", beside=files) == 1
    assert repository.publish(folder / "model", reason="") == 1


@pytest.mark.slow
def test_other_scores_than_the_trainers_are_refused(trained, tmp_path):
    verdict = check(trained, tmp_path / "files", model=shifted(trained[0] / "model", tmp_path / "shifted", 0.01))
    assert not verdict.blessed and not (tmp_path / "files").exists()
    assert [reason.split(",")[0] for reason in verdict.reasons] == [
        f"{signature}: expected the scores of the trainer within 1e-05"
        for signature in ("serving_default", "predict", "rank")
    ]
    assert [p.difference > 1e-4 for p in verdict.parity] == [True, True, True, False]
    verdict.write(str(tmp_path / "verdict"))
    assert (tmp_path / "verdict" / "INFRA_NOT_BLESSED").exists()


@pytest.mark.slow
def test_scores_that_are_no_numbers_are_refused(trained, tmp_path):
    verdict = check(trained, tmp_path, model=shifted(trained[0] / "model", tmp_path / "shifted", float("nan")))
    assert "serving_default: expected finite numbers as pctr, got nan in 100 of 100 rows" in verdict.reasons


@pytest.mark.slow
def test_a_transform_that_is_not_the_trainers_is_refused(trained, tmp_path):
    _, reference = trained
    other = Reference({**reference.features, "hour": reference.features["hour"] + 1}, reference.scores)
    verdict = check(trained, tmp_path, reference=other)
    (reason,) = verdict.reasons
    assert reason.startswith(
        "transform_features: expected 100 of the 110 rows that the trainer scored among the 120 raw"
    )
    assert "found 0" in reason


@pytest.mark.slow
def test_a_request_over_its_budget_is_refused(trained, tmp_path):
    late = LatencyBudget(candidates=5, p50=timedelta(0), p99=timedelta(minutes=1))
    verdict = check(trained, tmp_path, config=CONFIG.model_copy(update={"latency": (late, *SIZES[1:])}))
    (reason,) = verdict.reasons
    assert reason.startswith("latency: expected the p50 of rank with 5 candidates within 0ms, got ")
    assert len(verdict.latency) == 2


def damaged_weights(model: Path) -> None:
    (data,) = (model / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def without_vocabulary(model: Path) -> None:
    next(iter((model / "assets").iterdir())).unlink()


def with_foreign_operation(model: Path) -> None:
    graph = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    for function in graph.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Sigmoid":
                node.op = "SigmoidOfSomePackage"
    (model / "saved_model.pb").write_bytes(graph.SerializeToString())


def without_signature(model: Path) -> None:
    graph = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    del graph.meta_graphs[0].signature_def["predict"]
    (model / "saved_model.pb").write_bytes(graph.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage, told",
    [
        (damaged_weights, "the C++ loader refuses the model, as TF Serving would"),
        (without_vocabulary, "expected the transform graph and vocabularies of hash"),
        (
            with_foreign_operation,
            "some Python package registers it, and must not be used in the model: Op type not registered",
        ),
        (without_signature, "expected a signature 'predict', found rank, serving_default, transform_features"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(trained, tmp_path, damage, told):
    model = shutil.copytree(trained[0] / "model", tmp_path / "model")
    damage(model)
    verdict = check(trained, tmp_path / "files", model=model)
    (reason,) = verdict.reasons
    assert told in reason
    assert not verdict.blessed and not (tmp_path / "files").exists()
