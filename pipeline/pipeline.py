"""The pipeline: what runs, in which order, on what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import transform_pb2

from components.baseline import Baseline
from components.evaluator import Evaluator, build_eval_config
from components.example_validator import ExampleValidator
from components.log_example_gen import LogExampleGen
from components.log_example_gen.config import Window
from components.log_example_gen.executor import JoinOptions
from components.log_example_gen.forgotten import Forgotten
from components.log_example_gen.window import inputs_fingerprint, resolve_window
from components.offline_ab import OfflineABTest
from components.promotion import Promotion
from components.run_setup import RunSetup, run_values
from components.run_setup.values import VALUES, joined_under
from components.schema import CuratedSchema, with_weight
from components.serving_check import ServingCheck
from components.trainer.component import Trainer
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


@dataclass(frozen=True)
class RunParameters:
    """What one run reads, to be found out by the run itself: its days are given when it starts.

    Attributes:
      first_day, last_day, root, hyperparameters: as RunSetup takes them, texts and numbers or runtime parameters.
      schema_text: the curated schema, a Schema proto as text.
    """

    first_day: str | RuntimeParameter
    last_day: str | RuntimeParameter
    root: str | RuntimeParameter
    hyperparameters: Mapping[str, int | float | RuntimeParameter]
    schema_text: str


def trainer_spec(config: Config) -> TrainerSpec:
    """What the trainer reads of the configuration."""
    return TrainerSpec(
        features=config.features,
        tasks=config.tasks,
        model=config.model,
        balancer=config.balancer,
        optimizer=config.optimizer,
        training=config.training,
        value=config.serving.value,
    )


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


def resolve_inputs(config: Config, root: Path, schema_text: str | None = None) -> RunInputs:
    """Finds out what a run under a root reads now, by looking at the logs.

    Args:
      config: the configuration.
      root: of the run; users forgotten there count.
      schema_text: in place of the curated schema, for runs that need none.

    Raises:
      UserError: for what is missing of the logs or the schema.
    """
    window = resolve_window(config.logs, config.attribution, config.window)
    files = inputs_fingerprint(config.logs, config.attribution, window)
    return RunInputs(
        window=window,
        inputs_fingerprint=files + Forgotten.read(joined_uri(root)).digest,
        schema_text=read_schema(config) if schema_text is None else schema_text,
    )


def repository_root(config: Config, root: Path) -> str:
    """Root of the model repository of a run."""
    return config.serving.repository or str(root / "models")


def joined_uri(root: Path) -> str:
    """Folder in which the joined days of a root are kept."""
    return joined_under(str(root))


def log_example_gen(config: Config, run: Mapping[str, Any]) -> LogExampleGen:
    """The component that turns raw logs into labelled examples, every input row accounted for.

    Args:
      config: the configuration.
      run: `run_values`, or what stands for them.
    """
    return LogExampleGen(
        logs=config.logs.canonical_json(),
        attribution=config.attribution.canonical_json(),
        sampling=config.sampling.canonical_json(),
        features=features_to_json(config.features),
        **{key: run[key] for key in ("first_day", "first_eval_day", "last_day", "data_end_ms")},
        inputs_fingerprint=run["inputs_fingerprint"],
        joined_uri=run["joined_uri"],
        join_fingerprint=code_fingerprint("components.log_example_gen.joining"),
        code_fingerprint=code_fingerprint("components.log_example_gen.executor"),
    ).with_beam_pipeline_args(JoinOptions.flags(config.join))


def beam_flags(config: Config) -> list[str]:
    """Flags of Beam for all components."""
    # Any value keeps TFX from building a source distribution for every component with Beam. An image among the
    # options comes later, and counts.
    return ["--sdk_container_image=seesaw", *config.beam.options]


def create_pipeline(
    config: Config, root: Path, inputs: RunInputs | RunParameters, *, enable_cache: bool = True
) -> tfx.dsl.Pipeline:
    """Composes the pipeline; the same one for every runner.

    Args:
      config: the configuration.
      root: folder of everything that the pipeline writes. Where the inputs are RunParameters, their root takes its
        place in the components.
      inputs: what this run reads. With RunParameters, a first component finds it out, and the others take it from
        there.
      enable_cache: answer components that ran before with the same inputs from the cache.
    """
    features = features_to_json(config.features)
    labels = [t.label for t in config.tasks]
    spec = trainer_spec(config)
    decided_by = _decided_by(config, inputs.schema_text)
    first: list[Any] = []
    run: dict[str, Any]
    if isinstance(inputs, RunInputs):
        hyperparameters: Mapping[str, Any] = spec.hyperparameters()
        run = run_values(
            inputs.window,
            inputs.inputs_fingerprint,
            str(root),
            repository=config.serving.repository,
            decided_by=decided_by,
            hyperparameters=hyperparameters,
        )
    else:
        hyperparameters = inputs.hyperparameters
        setup = RunSetup(
            logs=config.logs.canonical_json(),
            attribution=config.attribution.canonical_json(),
            window_config=config.window.canonical_json(),
            first_day=inputs.first_day,
            last_day=inputs.last_day,
            root=inputs.root,
            repository=config.serving.repository or "",
            decided_by=decided_by,
            hyperparameters=dict(hyperparameters),
        )
        first = [setup]
        run = {key: setup.outputs[key].future()[0].value for key in VALUES}
    window = {key: run[key] for key in ("first_day", "first_eval_day", "last_day", "data_end_ms")}
    repository = {"repository": run["repository"], "model_name": config.serving.model_name}

    examples = log_example_gen(config, run)
    # The schema as a parameter: an edited file is never answered from the cache.
    schema = CuratedSchema(schema_text=with_weight(inputs.schema_text, config.sampling.on))
    # The model in service when this window and configuration first ran. All that decides on a new model is in the
    # fingerprint, and nothing else: repeating a run is then a cache hit and not a second promotion.
    baseline = Baseline(**repository, **window, fingerprint=run["fingerprint"])
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
    trainer = Trainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        base_model=baseline.outputs["model"],
        spec=spec.canonical_json(),
        checkpoints=run["checkpoints"],
        code_fingerprint=code_fingerprint("components.trainer.executor", "components.trainer.run_fn"),
        hyperparameters=dict(hyperparameters),
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
        window=run["window"],
        code_fingerprint=code_fingerprint("components.promotion.executor"),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(root / "artifacts"),
        components=[
            *first,
            *(examples, schema, baseline, statistics, validator, transform),
            *(trainer, evaluator, evidence, serving_check, promotion),
        ],
        enable_cache=enable_cache,
        metadata_connection_config=_metadata(root),
        beam_pipeline_args=beam_flags(config),
    )


def _metadata(root: Path) -> metadata_store_pb2.ConnectionConfig:
    """TFX's own function makes the folder too, which is not this machine's where the pipeline is compiled."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(root / "metadata.sqlite")
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return connection


def _decided_by(config: Config, schema_text: str) -> str:
    """Digest of all that decides on a new model and on the verdict, but for what varies from run to run."""
    decides = [
        features_to_json(config.features),
        trainer_spec(config).canonical_json(),
        config.sampling.canonical_json(),
        *(
            s.canonical_json()
            for s in (config.attribution, config.validation, config.evaluation, *config.gates, config.evidence)
        ),
        config.serving.check.canonical_json(),
        schema_text,
        _whole_code(),
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _whole_code() -> str:
    return code_fingerprint(
        "components.log_example_gen.executor",
        "components.example_validator.executor",
        "components.trainer.executor",
        "components.trainer.run_fn",
        "components.evaluator.executor",
        "components.offline_ab.executor",
        "components.serving_check.executor",
        "components.promotion.executor",
    )
