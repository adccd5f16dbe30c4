"""What a balancer is: a pure function from losses, Gram matrix and state to task weights."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal, NamedTuple

import tensorflow as tf
from pydantic import Field, PositiveInt

from models.section import Section

State = dict[str, tf.Tensor]


class Needs(Enum):
    """What a balancer must be given; it decides what a training step costs."""

    LOSSES = "losses"
    """The task losses only: one backward pass, no overhead."""
    LAST_SHARED = "last_shared"
    """The Gram matrix over the last shared layer alone: K short backward passes and a whole one."""
    GRAM = "gram"
    """The Gram matrix over all shared parameters, or at the shared representation (`GramBalancer.level`)."""


class Weights(NamedTuple):
    """Task weights, float32: on parameters that two or more losses reach, and on a task's own.

    Attributes:
      shared: [K], or [groups, K] from a balancer that is `per_layer`.
      own: [K].
    """

    shared: tf.Tensor
    own: tf.Tensor


class Run(NamedTuple):
    """What a balancer may know of the training run when its state is made.

    Attributes:
      tasks: names of the tasks, in the order of the chain.
      steps: steps of the whole run.
      steps_per_epoch: steps of one pass over the data.
      groups: groups of parameters, for balancers that are `per_layer`.
    """

    tasks: tuple[str, ...]
    steps: int = 1
    steps_per_epoch: int = 1
    groups: int = 1


class Balancer(Section):
    """A balancing method: its configuration, and two pure functions.

    Attributes:
      needs: what `weigh` reads. The Gram matrix it is given is zero where it needs none.
    """

    needs: ClassVar[Needs]

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        """Refuses a configuration that names tasks which are not there.

        Raises:
          ValueError: naming the key and the task.
        """

    def initial_state(self, run: Run) -> State:
        """State before the first step: named float32 tensors, saved with the checkpoint."""
        return {}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        """Task weights for one step.

        Args:
          losses: [K] float32, the mean loss of each task over the batch.
          gram: [K, K] float32, inner products g_k·g_j of the task gradients over what `needs` says;
            [groups, K, K] for a balancer that is `per_layer`.
          state: as `initial_state` or the call before returned it.
          step: scalar int64, 0 at the first step.
          seed: [2] int32 for `tf.random.stateless_*`, new at every step.

        Returns:
          The weights and the new state, with the same names and shapes.
        """
        raise NotImplementedError


class GramBalancer(Balancer):
    """A balancer that reads the Gram matrix of the task gradients; a task's own parameters keep weight 1."""

    needs: ClassVar[Needs] = Needs.GRAM

    level: Literal["parameters", "representation"] = Field(
        "parameters",
        description="Compare the gradients of all shared parameters (exact), or those of the last tensor that every "
        "task reads (one backward pass).",
    )
    refresh_every: PositiveInt = Field(1, description="Steps from one Gram matrix to the next; weights are held.")

    @property
    def per_layer(self) -> bool:
        """Whether each layer has a Gram matrix and weights of its own."""
        return False
