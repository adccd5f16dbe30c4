"""Configuration of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from models.balancing import AnyBalancer
from models.features import Feature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.section import Section, UserError
from models.tasks import TaskConfig


class TrainingConfig(Section):
    """How long, on what batches and on what devices to train."""

    epochs: PositiveInt = Field(
        1, description="Passes over the training days. Click models overfit from the second on."
    )
    batch_size: PositiveInt = Field(1024, description="Rows of a training step, over all devices together.")
    seed: NonNegativeInt = Field(1, description="Decides initial weights, the order of rows and dropout.")
    shuffle_rows: PositiveInt = Field(
        50_000, description="Rows that are shuffled together, one such portion after another."
    )
    cache: bool = Field(
        False, description="Keep the rows in memory: they are read once, and shuffled all together at each epoch."
    )
    probe_every: NonNegativeInt = Field(
        100, description="Steps between looks at the task gradients for methods that do not need them; 0 for never."
    )
    checkpoint_every: NonNegativeInt = Field(
        1000, description="Steps between checkpoints, from which a run that was interrupted goes on; 0 for none."
    )
    max_left_out: NonNegativeInt = Field(
        10,
        description="Steps in which a task may be left out because its loss or gradient is not finite; "
        "one more ends the run.",
    )
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="What dense layers compute in; weights and losses are float32 in any case."
    )
    xla: bool = Field(False, description="Compile the dense part of the training step with XLA.")
    strategy: Literal["none", "mirrored", "multi_worker"] = Field(
        "none",
        description="Devices: one; all visible GPUs, each with its part of the batch; or those of several workers, "
        "which TF_CONFIG names.",
    )
    warm_start: bool = Field(True, description="Start from the weights of the model in service where they fit.")

    @model_validator(mode="after")
    def _devices_agree(self) -> TrainingConfig:
        if self.xla and self.strategy != "none":
            raise ValueError(
                f"xla and strategy: expected xla: false with strategy: {self.strategy}, got xla: true; "
                f"set xla: false or strategy: none"
            )
        return self


HYPERPARAMETERS: dict[str, type] = {
    "epochs": int,
    "batch_size": int,
    "learning_rate": float,
    "embedding_learning_rate": float,
    "seed": int,
}
"""What of a TrainerSpec may be given when a run starts, and its type. The learning rates are those of the dense
layers and of the embedding tables."""


class TrainerSpec(Section):
    """What the trainer reads of a pipeline's configuration."""

    features: tuple[Feature, ...]
    tasks: tuple[TaskConfig, ...]
    model: ModelConfig
    balancer: AnyBalancer
    optimizer: OptimizerConfig
    training: TrainingConfig
    value: str | None = None

    def hyperparameters(self) -> dict[str, int | float]:
        """The values of HYPERPARAMETERS."""
        return {
            "epochs": self.training.epochs,
            "batch_size": self.training.batch_size,
            "learning_rate": self.optimizer.dense.learning_rate,
            "embedding_learning_rate": self.optimizer.embedding.learning_rate,
            "seed": self.training.seed,
        }

    def with_hyperparameters(self, given: Mapping[str, int | float]) -> TrainerSpec:
        """This specification with other values of HYPERPARAMETERS.

        Raises:
          UserError: naming each value that the configuration would refuse as well.
        """
        changed = self.model_dump(mode="json")
        for name in ("epochs", "batch_size", "seed"):
            changed["training"][name] = given[name]
        changed["optimizer"]["dense"]["learning_rate"] = given["learning_rate"]
        changed["optimizer"]["embedding"]["learning_rate"] = given["embedding_learning_rate"]
        try:
            return TrainerSpec.from_json(json.dumps(changed))
        except ValidationError as error:
            mistakes = [
                f"{'.'.join(map(str, e['loc']))}: {e['msg'].replace('Input should be', 'expected')}, got {e['input']!r}"
                for e in error.errors(include_url=False)
            ]
            raise UserError("\n".join(mistakes)) from None
