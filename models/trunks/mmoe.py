"""MMoE: experts that all tasks share, mixed by a gate of each task."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
from pydantic import Field, PositiveInt

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.experts import Experts
from models.trunks.gates import Gate, mix


class MMoEConfig(TrunkConfig):
    """Shared experts, mixed by a softmax gate of each task (Ma et al., KDD 2018)."""

    name: Literal["mmoe"]
    experts: PositiveInt = Field(4, description="Number of experts.")
    expert: DenseStack = Field(DenseStack(units=(128, 64)), description="Layers of each expert.")

    def build(self, tasks: int, *, seed: int) -> MMoE:
        return MMoE(tasks, self.experts, self.expert, seed=seed)


class MMoE(Trunk):
    """h_k = Σ_e softmax(W_k x)_e f_e(x) [batch, units[-1]].

    `shared` is the stack of expert outputs [batch, experts, units[-1]]; the gates are the tasks' own and read the
    embedded input. Gate k is observed as 'task_k'.

    Args:
      tasks: number of tasks.
      experts: number of experts.
      expert: layers of each expert.
      seed: decides the initial weights.

    Reference: Ma, Zhao, Yi, Chen, Hong, Chi. Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts. KDD 2018.
    """

    def __init__(self, tasks: int, experts: int, expert: DenseStack, *, seed: int, **kwargs):
        super().__init__(name="mmoe", **kwargs)
        self.experts = Experts(experts, expert, seed=seed, name="experts")
        self.gates = [Gate(experts, seed=seed + 1000 + k, name=f"gate_{k}") for k in range(tasks)]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return self.experts(inputs, training=training)

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        gates = [gate(inputs) for gate in self.gates]
        self.observed.gates.update({f"task_{k}": gate for k, gate in enumerate(gates)})
        return [mix(gate, [shared]) for gate in gates]

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        return self.experts.last_kernel
