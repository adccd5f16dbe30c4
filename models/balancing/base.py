"""What a balancer is: a pure function from losses, Gram matrix and state to task weights."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, NamedTuple

import tensorflow as tf

from models.section import Section

State = dict[str, tf.Tensor]


class Needs(Enum):
    """What a balancer must be given; it decides what a training step costs."""

    LOSSES = "losses"
    """The task losses only: one backward pass, no overhead."""
    GRAM = "gram"
    """The Gram matrix of the task gradients over the shared parameters: K backward passes."""


class Weights(NamedTuple):
    """Task weights [K] float32: on parameters that two or more losses reach, and on a task's own."""

    shared: tf.Tensor
    own: tf.Tensor


class Balancer(Section):
    """A balancing method: its configuration, and two pure functions.

    Attributes:
      needs: what `weigh` reads. The Gram matrix it is given is zero where it needs none.
    """

    needs: ClassVar[Needs]

    def initial_state(self, tasks: tuple[str, ...]) -> State:
        """State before the first step: named float32 tensors, saved with the checkpoint."""
        return {}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        """Task weights for one step.

        Args:
          losses: [K] float32, the mean loss of each task over the batch.
          gram: [K, K] float32, inner products g_k·g_j of the task gradients over the shared parameters.
          state: as `initial_state` or the call before returned it.
          step: scalar int64, 0 at the first step.
          seed: [2] int32 for `tf.random.stateless_*`, new at every step.

        Returns:
          The weights and the new state, with the same names and shapes.
        """
        raise NotImplementedError
