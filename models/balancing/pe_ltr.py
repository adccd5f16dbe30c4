"""PE-LTR: the shortest convex combination of the task gradients with a least weight for each task."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
from pydantic import Field, model_validator

from models.balancing.base import GramBalancer, Run, State, Weights
from models.balancing.simplex import as_float64, check_task_count, min_norm, project_to_simplex


class PELTR(GramBalancer):
    """Minimises ‖Σ_k w_k g_k‖² over Σ w = 1, w_k >= c_k.

    `pecsolver` is the authors' two steps for v = w - c. First the minimum without v >= 0, from

        [G eᵀ; e 0] [v; λ] = [-G c; 1 - Σ c],

    by the pseudo-inverse of that symmetric matrix (the paper's (MᵀM)⁻¹M is M⁻¹ at a squared condition number), with G
    divided by its trace. Then the nearest v' to v with v' >= 0, Σ v' = 1 - Σ c. The two steps are the constrained
    minimum for two tasks and approximate it for more; `exact` finds it. With no floors, `exact` is MGDA.

    Args:
      floors: c_k by task name, 0 for a task left out, in sum at most 1.
      solver: `pecsolver` or `exact`.

    Raises:
      ValueError: for a floor below 0, for floors above 1 in sum, and for floors of unknown tasks.

    Example:
      >>> PELTR(name="pe_ltr", floors={"ctr": 0.3, "cvr": 0.2}).initial_state(Run(("ctr", "cvr")))["floors"].shape
      TensorShape([2])

    Reference: Lin, Chen, Pei, Sun, Xiao, Sun, Zhang, Ou, Jiang. A Pareto-Efficient Algorithm for Multiple Objective
      Optimization in E-Commerce Recommendation. RecSys 2019.
    """

    name: Literal["pe_ltr"]
    floors: dict[str, float] | None = Field(None, description="Least weight by task name; 0 for a task left out.")
    solver: Literal["pecsolver", "exact"] = Field(
        "pecsolver", description="The authors' two steps, or the exact minimum; they differ from three tasks on."
    )

    @model_validator(mode="after")
    def _floors(self) -> PELTR:
        for task, floor in (self.floors or {}).items():
            if not 0 <= floor <= 1:
                raise ValueError(f"floors.{task}: expected a number from 0 to 1, got {floor}")
        total = sum((self.floors or {}).values())
        if total > 1 + 1e-9:
            raise ValueError(f"floors: expected at most 1 in sum, got {total:g}")
        return self

    def check_tasks(self, tasks: tuple[str, ...]) -> None:
        unknown = sorted(set(self.floors or {}) - set(tasks))
        if unknown:
            raise ValueError(f"floors: expected names of tasks ({', '.join(tasks)}), got '{unknown[0]}'")
        if self.solver == "exact":
            check_task_count(self.name, tasks)

    def initial_state(self, run: Run) -> State:
        self.check_tasks(run.tasks)
        given = self.floors or {}
        return {"floors": tf.constant([given.get(t, 0.0) for t in run.tasks], tf.float32)}

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        floors = tf.cast(state["floors"], tf.float64)
        gram = as_float64(gram)
        gram = tf.math.divide_no_nan(gram, tf.linalg.trace(gram))
        free = max(0.0, 1.0 - sum((self.floors or {}).values()))
        if free < 1e-6:
            weights = floors
        elif self.solver == "exact":
            weights = floors + free * min_norm(_shifted(gram, floors, free))
        else:
            weights = floors + project_to_simplex(_relaxed(gram, floors, free), free)
        return Weights(tf.cast(weights, tf.float32), tf.ones_like(losses)), state


def _shifted(gram: tf.Tensor, floors: tf.Tensor, free: float) -> tf.Tensor:
    """Gram matrix of h_k = g_k + Σ_j c_j g_j / free: Σ (c_k + free u_k) g_k = free Σ u_k h_k for u on the simplex."""
    pull = tf.linalg.matvec(gram, floors) / free
    return gram + pull[:, None] + pull + tf.tensordot(floors, pull, 1) / free


def _relaxed(gram: tf.Tensor, floors: tf.Tensor, free: float) -> tf.Tensor:
    """v of the KKT system without v >= 0: of all its solutions the shortest."""
    tasks = gram.shape[0]
    edge = tf.ones([tasks, 1], tf.float64)
    corner = tf.zeros([1, 1], tf.float64)
    system = tf.concat([tf.concat([gram, edge], 1), tf.concat([tf.transpose(edge), corner], 1)], 0)
    right = tf.concat([-tf.linalg.matvec(gram, floors), tf.constant([free], tf.float64)], 0)
    # Below float32's precision the matrix is rounding, and its inverse noise.
    return tf.linalg.matvec(tf.linalg.pinv(system, rcond=1e-7), right)[:tasks]
