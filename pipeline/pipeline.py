"""The pipeline: what runs, in which order, on what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tfx import v1 as tfx
from tfx.proto import trainer_pb2, transform_pb2

from components.baseline import Baseline
from components.evaluator import Evaluator, build_eval_config
from components.example_validator import ExampleValidator
from components.log_example_gen import LogExampleGen
from components.log_example_gen.config import Window
from components.log_example_gen.executor import JoinOptions
from components.offline_ab import OfflineABTest
from components.promotion import Promotion
from components.schema import CuratedSchema, with_weight
from components.serving_check import ServingCheck
from components.trainer.config import TrainerSpec
from models.preprocessing import features_to_json
from models.section import UserError
from pipeline.config import Config
from pipeline.fingerprint import code_fingerprint


@dataclass(frozen=True)
class RunInputs:
    """What one run reads, found out before it starts.

    Attributes:
      window: the days.
      inputs_fingerprint: changes with any log file that the window reads, and with the list of forgotten users.
      schema_text: the curated schema, a Schema proto as text.
    """

    window: Window
    inputs_fingerprint: str
    schema_text: str


def read_schema(config: Config) -> str:
    """The curated schema's text.

    Raises:
      UserError: when the file is not there, with the command that makes it.
    """
    path = Path(config.validation.schema_path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"validation.schema: {path} does not exist; make it once from your logs with "
            f"'seesaw schema --config …', look it over, and keep it beside the configuration"
        ) from None


def repository_root(config: Config, root: Path) -> str:
    """Root of the model repository of a run."""
    return config.serving.repository or str(root / "models")


def joined_uri(root: Path) -> str:
    """Folder in which the joined days of a root are kept."""
    return str(root / "joined")


def log_example_gen(config: Config, root: Path, inputs: RunInputs) -> LogExampleGen:
    """The component that turns raw logs into labelled examples, every input row accounted for."""
    window = {k: str(v) for k, v in inputs.window.model_dump(mode="json").items()}
    return LogExampleGen(
        logs=config.logs.canonical_json(),
        attribution=config.attribution.canonical_json(),
        sampling=config.sampling.canonical_json(),
        features=features_to_json(config.features),
        **window,
        inputs_fingerprint=inputs.inputs_fingerprint,
        joined_uri=joined_uri(root),
        join_fingerprint=code_fingerprint("components.log_example_gen.joining"),
        code_fingerprint=code_fingerprint("components.log_example_gen.executor"),
    ).with_beam_pipeline_args(JoinOptions.flags(config.join))


def beam_flags(config: Config) -> list[str]:
    """Flags of Beam for all components."""
    # Any value keeps TFX from building a source distribution for every component with Beam. An image among the
    # options comes later, and counts.
    return ["--sdk_container_image=seesaw", *config.beam.options]


def create_pipeline(config: Config, root: Path, inputs: RunInputs, *, enable_cache: bool = True) -> tfx.dsl.Pipeline:
    """Composes the pipeline; the same one for every runner.

    Args:
      config: the configuration.
      root: folder of everything that the pipeline writes.
      inputs: what this run reads.
      enable_cache: answer components that ran before with the same inputs from the cache.
    """
    window = {k: str(v) for k, v in inputs.window.model_dump(mode="json").items()}
    features = features_to_json(config.features)
    labels = [t.label for t in config.tasks]
    trainer_spec = TrainerSpec(
        features=config.features,
        tasks=config.tasks,
        model=config.model,
        balancer=config.balancer,
        optimizer=config.optimizer,
        training=config.training,
        value=config.serving.value,
    ).canonical_json()
    repository = {"repository": repository_root(config, root), "model_name": config.serving.model_name}

    examples = log_example_gen(config, root, inputs)
    # The schema as a parameter: an edited file is never answered from the cache.
    schema = CuratedSchema(schema_text=with_weight(inputs.schema_text, config.sampling.on))
    # The model in service when this window and configuration first ran. All that decides on a new model is in the
    # fingerprint, and nothing else: repeating a run is then a cache hit and not a second promotion.
    decided_by = [
        features,
        trainer_spec,
        config.sampling.canonical_json(),
        *(
            s.canonical_json()
            for s in (config.attribution, config.validation, config.evaluation, *config.gates, config.evidence)
        ),
        config.serving.check.canonical_json(),
        inputs.inputs_fingerprint,
        inputs.schema_text,
        _whole_code(),
    ]
    baseline = Baseline(**repository, **window, fingerprint=hashlib.sha256(json.dumps(decided_by).encode()).hexdigest())
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    # Anomalies and drift from the window of the model in service stop the run here.
    validator = ExampleValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        baseline=baseline.outputs["model"],
        drift=json.dumps(config.validation.drift),
        labels=json.dumps(labels),
        code_fingerprint=code_fingerprint("components.example_validator.executor"),
    )
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="models.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        # TFX's cache does not know the code of an importable function: the fingerprint tells it.
        custom_config={
            "features": features,
            "labels": labels,
            "weighted": config.sampling.on,
            "code_fingerprint": code_fingerprint("models.preprocessing"),
        },
        disable_statistics=True,
    )
    transform.add_upstream_node(validator)
    trainer = tfx.components.Trainer(
        run_fn="components.trainer.run_fn.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        base_model=baseline.outputs["model"],
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
        custom_config={
            "spec": trainer_spec,
            "code_fingerprint": code_fingerprint("components.trainer.run_fn"),
            # Outside of the artifacts: TFX gives a second attempt new ones.
            "checkpoints": str(root / "checkpoints"),
        },
    )
    evaluator = Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=build_eval_config(config.tasks, config.evaluation, config.gates),
        example_splits=["eval"],
        code_fingerprint=code_fingerprint("components.evaluator.executor"),
    )
    # Both models on the same rows, and the rules on the intervals of their differences.
    evidence = OfflineABTest(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        config=config.evidence,
        tasks=config.tasks,
        slices=config.evaluation.slices,
        splits=["eval"],
        code_fingerprint=code_fingerprint("components.offline_ab.executor"),
    )
    # The exported model as TF Serving will have it: the trainer's scores, without Python, in time.
    serving_check = ServingCheck(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=examples.outputs["examples"],
        config=config.serving.check,
        tasks=config.tasks,
        model_name=config.serving.model_name,
        split="eval",
        code_fingerprint=code_fingerprint("components.serving_check.executor"),
    )
    promotion = Promotion(
        model=trainer.outputs["model"],
        baseline=baseline.outputs["model"],
        blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        evidence=evidence.outputs["evidence"],
        serving_check=serving_check.outputs["blessing"],
        statistics=statistics.outputs["statistics"],
        **repository,
        window=inputs.window.canonical_json(),
        code_fingerprint=code_fingerprint("components.promotion.executor"),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(root / "artifacts"),
        components=[
            *(examples, schema, baseline, statistics, validator, transform),
            *(trainer, evaluator, evidence, serving_check, promotion),
        ],
        enable_cache=enable_cache,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.sqlite")
        ),
        beam_pipeline_args=beam_flags(config),
    )


def _whole_code() -> str:
    return code_fingerprint(
        "components.log_example_gen.executor",
        "components.example_validator.executor",
        "components.trainer.run_fn",
        "components.evaluator.executor",
        "components.offline_ab.executor",
        "components.serving_check.executor",
        "components.promotion.executor",
    )
