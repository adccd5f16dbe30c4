"""Fixed task weights: the baseline that every other method must beat."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field, model_validator

from models.balancing.base import Balancer, Needs, Run, State, Weights


class Static(Balancer):
    """w_k constant: 1 for each task unless given. Tuned, it often matches every adaptive method.

    Reference: Kurin, De Palma, Kostrikov, Whiteson, Kumar. In Defense of the Unitary Scalarization. NeurIPS 2022.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["static"]
    weights: dict[str, float] | None = Field(None, description="Weight by task name; 1 for a task left out.")

    @model_validator(mode="after")
    def _positive(self) -> Static:
        for task, weight in (self.weights or {}).items():
            if weight < 0:
                raise ValueError(f"weights.{task}: expected a number >= 0, got {weight}")
        return self

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        unknown = sorted(set(self.weights or {}) - set(tasks))
        if unknown:
            raise ValueError(f"weights: expected names of tasks ({', '.join(tasks)}), got '{unknown[0]}'")

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        given = self.weights or {}
        return {"weights": tf.constant([given.get(t, 1.0) for t in run.tasks], tf.float32)}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        return Weights(state["weights"], state["weights"]), state
