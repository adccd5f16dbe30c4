"""Configuration of the pipeline on Kubeflow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from models.section import Section

GPU = "Trainer"
"""The one component that computes on a GPU."""

COMPONENTS = (
    "RunSetup", "LogExampleGen", "CuratedSchema", "Baseline", "StatisticsGen", "ExampleValidator", "Transform", GPU,
    "Evaluator", "OfflineABTest", "ServingCheck", "Promotion",
)  # fmt: skip
"""Components that take settings of their own; the compiler checks that the pipeline has them."""


class Toleration(Section):
    """A taint of nodes on which the component may run all the same, as Kubernetes writes it."""

    key: str = Field("", description="Key of the taint; any with operator Exists and no key.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="Whether the value counts.")
    value: str = Field("", description="Value of the taint, with operator Equal.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("", description="Any effect without.")


class ComponentResources(Section):
    """What a component's container gets, and where it runs."""

    cpu: PositiveFloat | None = Field(None, description="Limit of CPU cores.")
    memory_gb: PositiveFloat | None = Field(None, description="Limit of memory, in 10^9 bytes.")
    gpu: NonNegativeInt = Field(0, description="Number of GPUs (nvidia.com/gpu); the Trainer alone may have some.")
    node_selector: dict[str, str] = Field(default={}, description="Labels of the nodes that it may run on.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints of nodes that it may run on.")
    retries: NonNegativeInt | None = Field(None, description="Times that it is tried again after a failure.")


class SecretVariable(Section):
    """An environment variable that takes its value from a Secret of the cluster."""

    variable: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the environment variable.")
    secret: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the Secret.")
    key: str = Field(description="Key in the Secret.")


class Volume(Section):
    """A persistent volume claim of the cluster, mounted into every component."""

    claim: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the claim.")
    path: str = Field(pattern=r"^/.+", description="Where it is mounted.")


class ScheduleConfig(Section):
    """When the pipeline runs by itself."""

    cron: str = Field(
        "0 0 5 * * *", description="Second, minute, hour, day of month, month, day of week; in the cluster's zone."
    )
    enabled: bool = Field(True, description="Whether the schedule is in force, or only noted.")

    @field_validator("cron")
    @classmethod
    def _six_fields(cls, cron: str) -> str:
        if len(cron.split()) != 6:
            raise ValueError("expected six fields (second minute hour day month weekday), such as '0 0 5 * * *'")
        return cron


class KubeflowConfig(Section):
    """The pipeline on Kubeflow; local runs do not read this."""

    image: str = Field("seesaw:latest", min_length=1, description="Image of all components, with its tag.")
    root: str = Field(
        "/mnt/seesaw", description="Folder of models and checkpoints: a mounted volume that all components see."
    )
    pipeline_root: str = Field(
        "", description="Address of the artifacts (gs://, s3:// or minio://); the backend's own by default."
    )
    resources: ComponentResources = Field(
        default=ComponentResources(cpu=2, memory_gb=8, retries=2),
        description="What each component gets that is not given something else.",
    )
    components: dict[str, ComponentResources] = Field(
        default={}, description="By component, what takes the place of `resources`, key by key: {Trainer: {gpu: 1}}."
    )
    trainer_workers: PositiveInt = Field(
        1,
        description="Workers of the Trainer, as a TFJob of the training operator, with training.strategy: "
        "multi_worker; each gets what components.Trainer says.",
    )
    environment: dict[str, str] = Field(default={}, description="Environment variables of every component.")
    secrets: tuple[SecretVariable, ...] = Field(default=(), description="Environment variables from Secrets.")
    volumes: tuple[Volume, ...] = Field(default=(), description="Volumes of every component.")
    image_pull_secret: str | None = Field(None, description="Secret with which the image is pulled.")
    service_account: str | None = Field(None, description="Service account of the components.")
    host: str | None = Field(None, description="Address of the Kubeflow Pipelines API, such as http://localhost:8080.")
    namespace: str | None = Field(None, description="Name space of a multi-user installation.")
    experiment: str | None = Field(None, description="Experiment of the runs; the pipeline's name by default.")
    max_concurrency: PositiveInt = Field(1, description="Scheduled runs at the same time.")
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _gpu_where_it_is_used(self) -> KubeflowConfig:
        if self.resources.gpu:
            raise ValueError(
                f"resources.gpu: expected 0, and a number under components.{GPU}.gpu, got {self.resources.gpu}"
            )
        for name, component in self.components.items():
            if name not in COMPONENTS:
                raise ValueError(f"components: expected names among {', '.join(COMPONENTS)}, got '{name}'")
            if component.gpu and name != GPU:
                raise ValueError(
                    f"components.{name}.gpu: expected 0, since the {GPU} alone uses one, got {component.gpu}"
                )
        return self

    def of(self, component: str) -> ComponentResources:
        """What a component's container gets; where the Trainer is a job of several workers, it only starts that."""
        if component == GPU and self.trainer_workers > 1:
            return self.resources.model_copy(update={"retries": self._given(component).retries})
        return self._given(component)

    @property
    def of_worker(self) -> ComponentResources:
        """What each worker of the Trainer gets."""
        return self._given(GPU)

    def _given(self, component: str) -> ComponentResources:
        own = self.components.get(component)
        if own is None:
            return self.resources
        given = {key: getattr(own, key) for key in own.model_fields_set}
        return self.resources.model_copy(update=given)
