"""What heads are: from one representation per task to the funnel's probabilities and losses."""

from __future__ import annotations

import itertools

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveInt

from models.replicas import sum_over_replicas
from models.section import Section
from models.sides import Dense, Stack
from models.tasks import TaskConfig
from models.trunks.base import Activation, DenseStack, Normalization


class HeadsConfig(Section):
    """Towers on top of the trunk, one per task, and how their logits are read."""

    tower: tuple[PositiveInt, ...] = Field((64,), description="Widths of each task's tower; [] for a linear one.")
    towers: dict[str, tuple[PositiveInt, ...]] | None = Field(
        None, description="Widths by name of the task, for tasks whose tower is not like the others'."
    )
    activation: Activation = Field("relu", description="Activation of each tower layer.")
    normalization: Normalization = Field("none", description="Normalisation of each tower layer, as in the trunk.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each tower layer's outputs dropped in training.")

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        """Refuses towers of tasks which are not there.

        Raises:
          ValueError: naming the key and the task.
        """
        unknown = [name for name in self.towers or {} if name not in tasks]
        if unknown:
            raise ValueError(f"towers: expected names of tasks, among {', '.join(tasks)}, got '{unknown[0]}'")

    def build(self, tasks: tuple[TaskConfig, ...], *, seed: int) -> Heads:
        """Makes the heads of a chain of tasks; `seed` decides their initial weights."""
        raise NotImplementedError


class Heads(keras.layers.Layer):
    """One tower per task: representations [[batch, d_k]] -> logits [[batch]], of the conditional steps by default.

    Everything is a list over tasks and never one [batch, K] tensor: which parameters a loss reaches is
    read off the graph, and a stacked tensor would connect every loss to every tower.
    Labels are in {0, 1}: event k happened, which implies that event k - 1 did.
    """

    def __init__(self, config: HeadsConfig, tasks: tuple[TaskConfig, ...], *, seed: int, **kwargs):
        super().__init__(name="heads", **kwargs)
        config.check_tasks(tuple(t.name for t in tasks))
        self.tasks = tasks
        self.towers = []
        for k, task in enumerate(tasks):
            tower = Stack(name=f"tower_{task.name}")
            if units := (config.towers or {}).get(task.name, config.tower):
                stack = DenseStack(
                    units=units,
                    activation=config.activation,
                    normalization=config.normalization,
                    dropout=config.dropout,
                )
                tower.add(stack.build("hidden", seed=seed + 1000 * k))
            initializer = keras.initializers.GlorotUniform(seed=seed + 1000 * k + 999)
            tower.add(Dense(1, kernel_initializer=initializer, name="logit"))
            self.towers.append(tower)

    def call(self, representations: list[tf.Tensor], training: bool = False) -> list[tf.Tensor]:
        # Losses are taken in float32 whatever the precision of the layers below.
        return [
            tf.cast(tower(r, training=training)[:, 0], tf.float32) for tower, r in zip(self.towers, representations)
        ]

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Per task, the probability on which its loss is taken."""
        raise NotImplementedError

    @property
    def spaces(self) -> tuple[int, ...]:
        """Per task, the step whose rows its loss is over: all rows for step 0, else those with the label before it."""
        raise NotImplementedError

    def losses_per_row(self, logits: list[tf.Tensor], labels: list[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Per task, the loss [batch] of each row and the mask [batch] of the rows in its sample space."""
        raise NotImplementedError

    def task_losses(
        self, logits: list[tf.Tensor], labels: list[tf.Tensor], weights: tf.Tensor | None = None
    ) -> list[tf.Tensor]:
        """Mean loss of each task over its sample space, K scalars; 0 for a task without a row in the batch.

        With weights it is Σ w·loss / rows. Given the number of rows its expectation is the one over all data times
        the mean weight, a constant. Over Σ w it would not be: sum and weights go up and down together from batch to
        batch, so that batches of light rows, which are the positives, would count for more than their share, and
        the probabilities be off by a part of the order of 1 / rows.

        On one of several replicas, its part of the mean over the batch of all of them.

        Args:
          logits: K tensors [batch], float32.
          labels: K tensors [batch], float32 in {0, 1}; NaN where a label is missing.
          weights: [batch, K] float32, of each row among those that reached a step; 1 by default.
        """
        missing = [tf.math.is_nan(y) for y in labels]
        filled = [tf.where(m, 0.0, y) for m, y in zip(missing, labels)]
        sums, counts = [], []
        for k, ((per_row, mask), space) in enumerate(zip(self.losses_per_row(logits, filled), self.spaces)):
            # A row's loss reads the labels down to its own step.
            counted = tf.where(tf.reduce_any(tf.stack(missing[: k + 1]), axis=0), 0.0, mask)
            if weights is not None:
                per_row *= weights[:, space]
            # Not per_row * counted: a row outside the sample space must not turn 0 * inf into NaN.
            sums.append(tf.reduce_sum(tf.where(counted > 0, per_row, 0.0)))
            counts.append(tf.reduce_sum(counted))
        return [tf.math.divide_no_nan(s, n) for s, n in zip(sums, sum_over_replicas(counts))]

    def penalty(self, logits: list[tf.Tensor], weights: tf.Tensor | None = None) -> tf.Tensor | None:
        """A loss on the outputs, added outside the balancing; None without one. Arguments as in `task_losses`.

        On one of several replicas, its part of the loss over all of them.
        """
        return None

    def probabilities(self, logits: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Every output of the chain, float32 [batch]: 'p' + name of each step, then of each product."""
        log_p = list(itertools.accumulate(tf.math.log_sigmoid(a) for a in logits))
        named = {"p" + task.name: tf.sigmoid(a) for task, a in zip(self.tasks, logits)}
        return named | {"p" + str(t.joint): tf.exp(p) for t, p in zip(self.tasks[1:], log_p[1:])}
