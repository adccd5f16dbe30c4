"""GradVac: gradients of two tasks are turned to the cosine that they have on average."""

from __future__ import annotations

from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field, model_validator

from models.balancing.base import GramBalancer, Run, State, Weights
from models.balancing.pcgrad import others_in_random_order
from models.balancing.simplex import as_float64

# √(1 - φ̂²) is divided by, so φ̂ stays this far from ±1 there.
_MARGIN = 1e-6
# A gradient that lost all but this share of its square is rounding, and has no direction to record.
_ROUNDING = 1e-6


class GradVac(GramBalancer):
    """For each task i, from g_i' = g_i, and each j ≠ i in random order, with φ = cos(g_i', g_j): where φ < φ̂_ij,

        g_i' <- g_i' + ‖g_i'‖ (φ̂_ij √(1 - φ²) - φ √(1 - φ̂_ij²)) / (‖g_j‖ √(1 - φ̂_ij²)) g_j,

    after which the cosine is φ̂_ij; and always φ̂_ij <- (1 - β) φ̂_ij + β φ. The update is the sum Σ_i g_i'. φ̂ starts
    at 0, so with β = 0 and `per: model` this is PCGrad. Zero gradients are left as they are, and their φ̂ too.

    Args:
      beta: β, what a step adds to the average cosine.
      per: `layer` as in the paper: cosines and weights per group of parameters, all in the same order; or `model`.

    Raises:
      ValueError: for `per: layer` with `level: representation`, where there are no layers to tell apart.

    Example:
      >>> GradVac(name="gradvac").initial_state(Run(("ctr", "cvr"), groups=3))["target"].shape
      TensorShape([3, 2, 2])

    Reference: Wang, Tsvetkov, Firat, Cao. Gradient Vaccine: Investigating and Improving Multi-task Optimization in
      Massively Multilingual Models. ICLR 2021.
    """

    name: Literal["gradvac"]
    beta: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="Rate of the average cosine of two tasks.")
    per: Literal["layer", "model"] = Field(
        "layer", description="Compare gradients layer by layer, or those of the whole model."
    )

    @model_validator(mode="after")
    def _layers_need_parameters(self) -> GradVac:
        if self.per == "layer" and self.level == "representation":
            raise ValueError("per: expected 'model' with level 'representation', got 'layer'")
        return self

    @property
    def per_layer(self) -> bool:
        return self.per == "layer"

    def initial_state(self, run: Run) -> State:
        tasks = len(run.tasks)
        return {"target": tf.zeros([run.groups if self.per_layer else 1, tasks, tasks], tf.float32)}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        gram = as_float64(gram if self.per_layer else gram[None])
        tasks = gram.shape[-1]
        target = tf.cast(state["target"], tf.float64)
        norms = tf.sqrt(tf.maximum(tf.linalg.diag_part(gram), 0.0))
        rows = tf.zeros_like(gram) + tf.eye(tasks, dtype=tf.float64)
        for chosen in tf.unstack(others_in_random_order(tasks, seed)):
            # [groups, K] each: task i's product with the j that it meets, the two norms, their target.
            inner = tf.reduce_sum(rows * tf.matmul(chosen, gram), axis=-1)
            square = tf.maximum(tf.reduce_sum(tf.matmul(rows, gram) * rows, axis=-1), 0.0)
            norm, other = tf.sqrt(square), tf.linalg.matvec(chosen, norms)
            cosine = tf.clip_by_value(tf.math.divide_no_nan(inner, norm * other), -1.0, 1.0)
            old = tf.reduce_sum(target * chosen, axis=-1)
            wanted = tf.clip_by_value(old, _MARGIN - 1.0, 1.0 - _MARGIN)
            turn = wanted * tf.sqrt((1.0 - cosine**2) / (1.0 - wanted**2)) - cosine
            turn = tf.where(cosine < wanted, tf.math.divide_no_nan(norm * turn, other), tf.zeros_like(turn))
            whole = tf.reduce_sum(tf.abs(rows) * norms[:, None, :], axis=-1)
            known = tf.logical_and(other > 0.0, square > _ROUNDING * whole**2)
            drift = tf.where(known, self.beta * (cosine - old), tf.zeros_like(old))
            rows += turn[..., None] * chosen
            target += drift[..., None] * chosen
        weights = tf.cast(tf.reduce_sum(rows, axis=-2), tf.float32)
        shared = weights if self.per_layer else weights[0]
        return Weights(shared, tf.ones_like(losses)), {"target": tf.cast(target, tf.float32)}
