"""Hybrid task weighting: a main task that warms up, and auxiliary tasks that fade as they are learned."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field

from models.balancing.base import Balancer, Needs, Run, State, Weights
from models.balancing.ratio import loss_ratio


class HTW(Balancer):
    """Main task: w = min(1, t / τ), auxiliary tasks: w_k = (L_k(t) / L_k(0))^α.

    The main task follows the abridged linear schedule: t counts steps from 1, and τ is a share of the run's
    steps. The auxiliary tasks follow LBTW (Liu, Liang, Gitter 2019). Its paper takes L_k(0) at the first step
    of training, its published code at the first step of each epoch: `reference` offers both. An auxiliary task
    whose L_k(0) is 0 has weight 1.

    State: `initial` [K] is L_k(0), `main` [K] is 1 at the main task, `warm_up_steps` is τ in steps, and
    `steps_per_epoch`.

    Raises:
      ValueError: where `main_task` is not in the chain.

    Reference: Kongyoung, Macdonald, Ounis. Multi-Task Learning using Dynamic Task Weighting for Conversational
      Question Answering. SCAI at EMNLP 2020.
      Liu, Liang, Gitter. Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task Learning. AAAI 2019.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["htw"]
    main_task: str | None = Field(None, description="The task that matters; the last of the chain if left out.")
    warm_up: float = Field(0.1, ge=0, le=1, description="Share of the run's steps until the main task's weight is 1.")
    alpha: float = Field(0.5, ge=0, le=1, description="Exponent of the auxiliary tasks' loss ratio.")
    reference: Literal["first_step", "epoch"] = Field(
        "first_step", description="The ratio's denominator: the loss at the first step of training, or of each epoch."
    )

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        if self.main_task is not None and self.main_task not in tasks:
            raise ValueError(f"main_task: expected the name of a task ({', '.join(tasks)}), got '{self.main_task}'")

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        main = self.main_task or run.tasks[-1]
        return {
            "initial": tf.zeros([len(run.tasks)], tf.float32),
            "main": tf.constant([float(task == main) for task in run.tasks]),
            # At least one step, whose weight is then 1: no division by 0 without warm-up.
            "warm_up_steps": tf.constant(max(1.0, self.warm_up * run.steps)),
            "steps_per_epoch": tf.constant(float(run.steps_per_epoch)),
        }

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        since = step
        if self.reference == "epoch":
            since = step % tf.cast(state["steps_per_epoch"], tf.int64)
        initial = tf.where(since == 0, losses, state["initial"])
        main = tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / state["warm_up_steps"])
        auxiliary = tf.pow(loss_ratio(losses, initial), self.alpha)
        weights = tf.where(state["main"] > 0, main, auxiliary)
        return Weights(weights, weights), {**state, "initial": initial}
