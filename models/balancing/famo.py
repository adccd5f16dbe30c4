"""FAMO: moves weight to the tasks that improved least, from the losses alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field, NonNegativeFloat, PositiveFloat

from models.balancing.adam import adam_step
from models.balancing.base import Balancer, Needs, Run, State, Weights

_EPSILON = 1e-8


class FAMO(Balancer):
    """w_k = c z_k / (L_k - b_k), with z = softmax ξ and c such that the weights sum to 1.

    It is the gradient of Σ_k z_k log(L_k - b_k), scaled by c; b_k is the lowest value that a loss can take, 0 for
    cross-entropies. The logits ξ minimise Σ_k z_k (log(L_k - b_k) before - after the update) + γ/2 ‖ξ‖², whose
    gradient is closed form, z_k (δ_k - Σ_j z_j δ_j) + γ ξ_k; they take an Adam step.

    The paper measures the losses after an update on the same batch, a second forward pass. Here the next step's
    losses stand for them: no overhead, and the difference of two batches as noise, which Adam's means and a
    large batch damp. As in the paper the weights sum to 1 and not to K, so the model's steps are smaller by K
    than with a sum of losses where its optimizer is not scale-free.

    State: `logits` [K], `previous` [K] the losses of the step before, `count` the steps so far, `first` and
    `second` [K] are Adam's moments, and `lowest` [K].

    Raises:
      ValueError: where `lowest` names a task that is not in the chain.

    Reference: Liu, Feng, Stone, Liu. FAMO: Fast Adaptive Multitask Optimization. NeurIPS 2023.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["famo"]
    learning_rate: PositiveFloat = Field(0.025, description="Step size of the logits.")
    gamma: NonNegativeFloat = Field(0.001, description="Weight decay of the logits; higher is nearer to equal.")
    lowest: dict[str, float] | None = Field(
        None, description="The lowest value that a loss can take, by task name; 0 for a task left out."
    )

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        unknown = sorted(set(self.lowest or {}) - set(tasks))
        if unknown:
            raise ValueError(f"lowest: expected names of tasks ({', '.join(tasks)}), got '{unknown[0]}'")

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        zeros, given = tf.zeros([len(run.tasks)], tf.float32), self.lowest or {}
        return {
            "logits": zeros,
            "previous": zeros,
            "count": tf.constant(0.0),
            "first": zeros,
            "second": zeros,
            "lowest": tf.constant([given.get(task, 0.0) for task in run.tasks], tf.float32),
        }

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        above = tf.maximum(losses - state["lowest"], 0.0) + _EPSILON
        above_before = tf.maximum(state["previous"] - state["lowest"], 0.0) + _EPSILON
        logits, count = state["logits"], state["count"]

        improvement = tf.math.log(above_before) - tf.math.log(above)
        z = tf.nn.softmax(logits)
        gradient = z * (improvement - tf.reduce_sum(z * improvement)) + self.gamma * logits
        # The first step has no step before it: `count` is 0, and so is the number of updates.
        direction, first, second = adam_step(gradient, state["first"], state["second"], tf.maximum(count, 1.0))
        updated = count > 0
        logits = tf.where(updated, logits - self.learning_rate * direction, logits)

        share = tf.nn.softmax(logits) / above
        weights = share / tf.reduce_sum(share)
        return Weights(weights, weights), {
            "logits": logits,
            "previous": losses,
            "count": tf.minimum(count + 1.0, 2.0**23),  # below which float32 counts exactly
            "first": tf.where(updated, first, state["first"]),
            "second": tf.where(updated, second, state["second"]),
            "lowest": state["lowest"],
        }
