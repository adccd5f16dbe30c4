"""Compiles the pipeline for the open-source backend of Kubeflow Pipelines, version 2.

TFX's runner writes a specification for Vertex. What the open-source backend refuses or lacks is put right here, in
the specification: each function below says what and why.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

from components.run_setup import LATEST, WHOLE_WINDOW
from models.section import UserError
from pipeline.config import Config
from pipeline.kubeflow.config import GPU, ComponentResources, KubeflowConfig
from pipeline.kubeflow.workers import trainer_job
from pipeline.pipeline import RunParameters, create_pipeline, read_schema, trainer_spec

ENTRYPOINT = ["python", "-m", "pipeline.kubeflow.entrypoint"]

NEVER_CACHED = "RunSetup"
"""It looks at the logs: what it finds there is no part of its cache key, but of the others'."""


@dataclass(frozen=True)
class Compiled:
    """A pipeline for Kubeflow.

    Attributes:
      spec: a PipelineSpec of schema version 2.1.0.
      platform: a PlatformSpec: what Kubernetes alone knows, such as node selectors.
      text: both as the YAML that the backend takes.
      version: changes with the text.
    """

    spec: dict[str, Any]
    platform: dict[str, Any]
    text: str
    version: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The runtime parameters with their defaults."""
        parameters = self.spec["root"]["inputDefinitions"]["parameters"]
        return {name: parameter["defaultValue"] for name, parameter in sorted(parameters.items())}


def compile_pipeline(config: Config, image: str | None = None) -> Compiled:
    """Compiles the pipeline of a configuration.

    Runtime parameters: first_day, last_day, root, image and the trainer's hyperparameters, each with the
    configuration's value for its default.

    Args:
      config: the configuration.
      image: in place of the configuration's.

    Raises:
      UserError: if the schema is missing, or the number of workers does not go with training.strategy.
    """
    _check_workers(config)
    defaults = _defaults(config, image or config.kubeflow.image)
    given = {name: RuntimeParameter(name, type(value)) for name, value in defaults.items()}
    hyperparameters = {name: given[name] for name in trainer_spec(config).hyperparameters()}
    inputs = RunParameters(
        first_day=given["first_day"],
        last_day=given["last_day"],
        root=given["root"],
        hyperparameters=hyperparameters,
        schema_text=read_schema(config),
    )
    pipeline = create_pipeline(config, Path(config.kubeflow.root), inputs)
    runner = KubeflowV2DagRunner(
        KubeflowV2DagRunnerConfig(
            default_image=config.kubeflow.image, default_commands=ENTRYPOINT, use_pipeline_spec_2_1=True
        )
    )
    spec = runner.run(pipeline, write_out=False)["pipelineSpec"]
    _refuse_unsupported(spec)
    _name_producers(spec)
    _parametrise_image(spec)
    _write_defaults(spec, defaults)
    _write_tasks(spec, config.kubeflow)
    _write_containers(spec, config.kubeflow)
    _write_workers(spec, config)
    if config.kubeflow.pipeline_root:
        spec["defaultPipelineRoot"] = config.kubeflow.pipeline_root
    platform = _platform(spec, config.kubeflow)
    text = yaml.safe_dump_all([spec, platform] if platform else [spec], sort_keys=True, width=120)
    return Compiled(spec, platform, text, hashlib.sha256(text.encode()).hexdigest()[:12])


def _defaults(config: Config, image: str) -> dict[str, Any]:
    return {
        "first_day": WHOLE_WINDOW,
        "last_day": str(config.window.last_day) if config.window.last_day != LATEST else LATEST,
        "root": config.kubeflow.root,
        "image": image,
        **trainer_spec(config).hyperparameters(),
    }


def _refuse_unsupported(spec: dict[str, Any]) -> None:
    """The backend runs containers only: it answers a resolver with 'not implemented yet'."""
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if set(executor) != {"container"}:
            raise UserError(f"{name}: Kubeflow Pipelines runs containers only, got {', '.join(sorted(executor))}")


def _name_producers(spec: dict[str, Any]) -> None:
    """TFX names the producer of a parameter 'NAME_task', but no task of the pipeline is called so."""
    tasks = spec["root"]["dag"]["tasks"]
    for task in tasks.values():
        for parameter in task.get("inputs", {}).get("parameters", {}).values():
            if "taskOutputParameter" in parameter:
                source = parameter["taskOutputParameter"]
                if source["producerTask"] not in tasks:
                    source["producerTask"] = source["producerTask"].removesuffix("_task")


def _parametrise_image(spec: dict[str, Any]) -> None:
    """The image becomes a parameter of every component, which the backend's driver fills into the container.

    So it is part of the cache key, and a run may be given another tag without compiling again.
    """
    for task in spec["root"]["dag"]["tasks"].values():
        task.setdefault("inputs", {}).setdefault("parameters", {})["image"] = {"componentInputParameter": "image"}
    for component in spec["components"].values():
        parameters = component.setdefault("inputDefinitions", {}).setdefault("parameters", {})
        parameters["image"] = {"parameterType": "STRING"}
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = "{{$.inputs.parameters['image']}}"
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    parameters["image"] = {"parameterType": "STRING"}


def _write_defaults(spec: dict[str, Any], defaults: dict[str, Any]) -> None:
    """TFX leaves the defaults out in 2.1, and the backend refuses a run that does not give every parameter then."""
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for name, value in defaults.items():
        parameters[name]["defaultValue"] = value


def _write_tasks(spec: dict[str, Any], config: KubeflowConfig) -> None:
    for name, task in spec["root"]["dag"]["tasks"].items():
        task["cachingOptions"] = {"enableCache": True} if name != NEVER_CACHED else {}
        retries = config.of(name).retries
        if retries:
            # The backend passes missing values on to Argo as zeros.
            task["retryPolicy"] = {
                "maxRetryCount": retries,
                "backoffDuration": "60s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "900s",
            }


def _write_containers(spec: dict[str, Any], config: KubeflowConfig) -> None:
    for name, component in spec["components"].items():
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        resources = _limits(config.of(name))
        if resources:
            container["resources"] = resources
        if config.environment:
            container["env"] = [{"name": key, "value": value} for key, value in config.environment.items()]


def _check_workers(config: Config) -> None:
    workers, strategy = config.kubeflow.trainer_workers, config.training.strategy
    if (workers > 1) != (strategy == "multi_worker"):
        raise UserError(
            f"kubeflow.trainer_workers: expected more than 1 with training.strategy: multi_worker, and 1 with another, "
            f"got {workers} with {strategy}"
        )


def _write_workers(spec: dict[str, Any], config: Config) -> None:
    """Several workers are a job of their own, which the Trainer's container starts."""
    if config.kubeflow.trainer_workers == 1:
        return
    container = spec["deploymentSpec"]["executors"][spec["components"][GPU]["executorLabel"]]["container"]
    job = trainer_job(config.name, container["image"], ENTRYPOINT, config.kubeflow)
    container["args"] += ["--workers", json.dumps(job)]


def _limits(resources: ComponentResources) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if resources.cpu is not None:
        limits["cpuLimit"] = resources.cpu
    if resources.memory_gb is not None:
        limits["memoryLimit"] = resources.memory_gb
    if resources.gpu:
        limits["accelerator"] = {"type": "nvidia.com/gpu", "count": str(resources.gpu)}
    return limits


def _platform(spec: dict[str, Any], config: KubeflowConfig) -> dict[str, Any]:
    """What Kubernetes alone knows, by executor. Secrets and claims by name: those fields are read by all releases of
    the backend, later ones beside newer fields."""
    executors = {}
    for name, component in spec["components"].items():
        resources = config.of(name)
        settings: dict[str, Any] = {}
        if resources.node_selector:
            settings["nodeSelector"] = {"labels": dict(resources.node_selector)}
        if resources.tolerations:
            settings["tolerations"] = [
                {key: value for key, value in toleration.model_dump().items() if value}
                for toleration in resources.tolerations
            ]
        if config.secrets:
            settings["secretAsEnv"] = [
                {"secretName": s.secret, "keyToEnv": [{"secretKey": s.key, "envVar": s.variable}]}
                for s in config.secrets
            ]
        if config.volumes:
            settings["pvcMount"] = [{"constant": volume.claim, "mountPath": volume.path} for volume in config.volumes]
        if config.image_pull_secret:
            settings["imagePullSecret"] = [{"secretName": config.image_pull_secret}]
        if settings:
            executors[component["executorLabel"]] = settings
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}} if executors else {}
