"""A pipeline of the real Baseline and Promotion around a toy trainer and evaluator.

Not `from __future__ import annotations`: TFX reads the annotations of components as objects.
"""

import json
from pathlib import Path

import tensorflow as tf
from tensorflow_model_analysis.proto import validation_result_pb2
from tfx import v1 as tfx
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from components.baseline import Baseline, baseline_version, has_model
from components.offline_ab.document import Data, Decision, Estimate, Evidence, RuleResult, Scorer, Settings
from components.promotion import Promotion
from components.serving_check import ServingVerdict


def write_evaluation(evaluation: Path, blessing: Path, baseline: int | None, failure: str | None) -> None:
    """What the Evaluator leaves, without the metrics; `failure` is the message of a gate not passed."""
    evaluation.mkdir(parents=True, exist_ok=True)
    blessing.mkdir(parents=True, exist_ok=True)
    result = validation_result_pb2.ValidationResult(validation_ok=failure is None)
    if failure is not None:
        validation = result.metric_validations_per_slice.add()
        validation.failures.add(metric_key={"name": "auc", "output_name": "pctr"}, message=failure)
    with tf.io.TFRecordWriter(str(evaluation / "validations.tfrecord")) as writer:
        writer.write(result.SerializeToString())
    not_compared = None if baseline else "no model is in service"
    (evaluation / "comparison.json").write_text(json.dumps({"baseline": baseline, "not_compared": not_compared}))
    (blessing / ("BLESSED" if failure is None else "NOT_BLESSED")).touch()


def write_evidence(folder: Path, verdict: Decision = "promote", reasons: tuple[str, ...] = ()) -> None:
    """What OfflineABTest leaves, without the metrics; with reasons it had a rule, without it had none."""
    gain = Estimate(value=0.0, low=-0.1, high=0.1)
    rule = RuleResult(
        text="", task="ctr", metric="auc", kind="superiority", margin=0.0, confidence=0.95, gain=gain,
        outcome="passed" if verdict == "promote" else "failed", reason="",
    )  # fmt: skip
    Evidence(
        verdict=verdict,
        reasons=reasons,
        baseline=None,
        candidate=Scorer(name="candidate", source=""),
        data=Data(
            rows=0, users=0, requests=0, first_time_ms=None, last_time_ms=None, positives={}, missing={}, source=""
        ),
        settings=Settings(confidence=0.95, replicates=50, seed=0, minimum_users=1, minimum_positives=1),
        rules=(rule,) if reasons else (),
        metrics=(),
    ).write(folder)


def write_serving_check(folder: Path, reasons: tuple[str, ...] = ()) -> None:
    """What ServingCheck leaves; with reasons the model is refused."""
    ServingVerdict(blessed=not reasons, reasons=reasons).write(str(folder))
    (folder / "files/assets.extra").mkdir(parents=True)
    if not reasons:
        (folder / "files/assets.extra/tf_serving_warmup_requests").write_text("requests")
        (folder / "files/batching_params.pbtxt").write_text("parameters")


@component
def ToyTrainer(
    baseline: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    model: tfx.dsl.components.OutputArtifact[standard_artifacts.Model],
    content: tfx.dsl.components.Parameter[str],
):
    folder = Path(model.uri, "Format-Serving")
    folder.mkdir(parents=True)
    start = Path(baseline.uri, "Format-Serving/saved_model.pb").read_text() if has_model(baseline.uri) else ""
    (folder / "saved_model.pb").write_text(start + content)


@component
def ToyEvaluator(
    baseline: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    model: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    evaluation: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelBlessing],
    evidence: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelEvaluation],
    serving_check: tfx.dsl.components.OutputArtifact[standard_artifacts.InfraBlessing],
):
    write_evaluation(Path(evaluation.uri), Path(blessing.uri), baseline_version(baseline.uri), failure=None)
    write_evidence(Path(evidence.uri))
    write_serving_check(Path(serving_check.uri))


def toy_run(root: Path, content: str, fingerprint: str) -> tfx.dsl.Pipeline:
    repository = {"repository": str(root / "models"), "model_name": "ranker"}
    window = {"first_day": "2026-01-01", "first_eval_day": "2026-01-04", "last_day": "2026-01-04", "data_end_ms": "17"}
    baseline = Baseline(**repository, **window, fingerprint=fingerprint)
    trainer = ToyTrainer(baseline=baseline.outputs["model"], content=content)
    evaluator = ToyEvaluator(baseline=baseline.outputs["model"], model=trainer.outputs["model"])
    promotion = Promotion(
        model=trainer.outputs["model"],
        baseline=baseline.outputs["model"],
        blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        evidence=evaluator.outputs["evidence"],
        serving_check=evaluator.outputs["serving_check"],
        **repository,
        window=json.dumps(window),
        code_fingerprint="",
    )
    return tfx.dsl.Pipeline(
        pipeline_name="toy",
        pipeline_root=str(root / "artifacts"),
        components=[baseline, trainer, evaluator, promotion],
        enable_cache=True,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.sqlite")
        ),
    )
