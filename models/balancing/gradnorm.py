"""GradNorm: learns task weights so that tasks push the last shared layer equally, slow tasks harder."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field, PositiveFloat, PositiveInt

from models.balancing.adam import adam_step
from models.balancing.base import Balancer, Needs, Run, State, Weights
from models.balancing.ratio import loss_ratio

# The paper's w >= 0 would let a task stand still until its weight recovers.
_FLOOR = 1e-3


class GradNorm(Balancer):
    """Minimises Σ_k |G_k - Ḡ r_k^α| over the task weights, with G_k = w_k ‖∇_W L_k‖.

    W are the weights of the last shared layer, Ḡ = mean_j G_j, and r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)) is
    the relative inverse training rate. The target Ḡ r_k^α is a constant, so the gradient is closed form,
    ‖∇_W L_k‖ sign(G_k - Ḡ r_k^α), with no pass of second order.

    It is divided by mean_j ‖∇_W L_j‖: the same minimum, and steps that do not depend on the unit of the losses.
    `sgd` takes the step as it is; `adam`, the usual choice in code for this method, further divides each
    task's step by the size of its own recent gradients. Weights are then kept above a small floor and
    renormalised to sum to K. A step uses the weights of the step before; they start at 1.

    State: `weights` [K], `initial` [K] is L_k(0), `count` the steps so far, `first` and `second` [K] are Adam's
    moments (0 with `sgd`).

    Reference: Chen, Badrinarayanan, Lee, Rabinovich. GradNorm: Gradient Normalization for Adaptive Loss Balancing
      in Deep Multitask Networks. ICML 2018.
    """

    needs: ClassVar[Needs] = Needs.LAST_SHARED

    name: Literal["gradnorm"]
    alpha: float = Field(1.5, ge=0, le=10, description="How much harder a slow task may push; 0 for equal norms.")
    learning_rate: PositiveFloat = Field(0.025, description="Step size of the task weights.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="What turns the weights' gradient into a step.")
    baseline_steps: PositiveInt = Field(
        1, description="L_k(0) is the mean loss of so many first steps (meanwhile, of those so far)."
    )

    def initial_state(self, run: Run) -> State:
        ones = tf.ones([len(run.tasks)], tf.float32)
        zeros = tf.zeros_like(ones)
        return {"weights": ones, "initial": zeros, "count": tf.constant(0.0), "first": zeros, "second": zeros}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        # Held at 2^23, below which float32 counts exactly.
        count = tf.minimum(state["count"] + 1.0, 2.0**23)
        so_far = state["initial"] + (losses - state["initial"]) / count
        initial = tf.where(count <= float(self.baseline_steps), so_far, state["initial"])

        gradient = self._gradient(state["weights"], losses, initial, gram)
        first, second = state["first"], state["second"]
        if self.optimizer == "adam":
            gradient, first, second = adam_step(gradient, first, second, count)
        weights = tf.maximum(state["weights"] - self.learning_rate * gradient, _FLOOR)
        weights = weights / tf.reduce_mean(weights)
        new = {"weights": weights, "initial": initial, "count": count, "first": first, "second": second}
        return Weights(state["weights"], state["weights"]), new

    def _gradient(self, weights: tf.Tensor, losses: tf.Tensor, initial: tf.Tensor, gram: tf.Tensor) -> tf.Tensor:
        """Of the objective over mean_j ‖∇_W L_j‖, with respect to the weights; 0 where no task has a gradient."""
        norms = tf.sqrt(tf.maximum(tf.linalg.diag_part(gram), 0.0))
        norms = tf.math.divide_no_nan(norms, tf.reduce_mean(norms))
        ratio = loss_ratio(losses, initial)
        mean = tf.reduce_mean(ratio)
        rate = tf.where(mean > 0, tf.math.divide_no_nan(ratio, mean), tf.ones_like(ratio))
        size = weights * norms
        return norms * tf.sign(size - tf.reduce_mean(size) * tf.pow(rate, self.alpha))
