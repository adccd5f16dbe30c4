"""Configuration of a training run."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from models.balancing import AnyBalancer
from models.features import Feature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.section import Section
from models.tasks import TaskConfig


class TrainingConfig(Section):
    """How long and on what batches to train."""

    epochs: PositiveInt = Field(
        1, description="Passes over the training days. Click models overfit from the second on."
    )
    batch_size: PositiveInt = Field(1024, description="Rows of a training step.")
    seed: NonNegativeInt = Field(1, description="Decides initial weights, the order of rows and dropout.")
    shuffle_rows: PositiveInt = Field(50_000, description="Rows in the buffer that the next row is drawn from.")
    probe_every: NonNegativeInt = Field(
        100, description="Steps between looks at the task gradients for methods that do not need them; 0 for never."
    )
    warm_start: bool = Field(True, description="Start from the weights of the model in service where they fit.")


class TrainerSpec(Section):
    """What the trainer reads of a pipeline's configuration."""

    features: tuple[Feature, ...]
    tasks: tuple[TaskConfig, ...]
    model: ModelConfig
    balancer: AnyBalancer
    optimizer: OptimizerConfig
    training: TrainingConfig
