"""PLE: experts of each task beside shared ones, in levels; with one level it is CGC."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveInt

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.experts import Experts
from models.trunks.gates import Gate, mix


class PLEConfig(TrunkConfig):
    """Experts of each task beside shared ones, in levels (Tang et al., RecSys 2020)."""

    name: Literal["ple"]
    levels: PositiveInt = Field(2, description="Number of levels; 1 is CGC.")
    task_experts: PositiveInt = Field(2, description="Number of each task's own experts, per level.")
    shared_experts: PositiveInt = Field(2, description="Number of shared experts, per level.")
    expert: DenseStack = Field(
        DenseStack(units=(128, 64)), description="Layers of each expert, the same at each level."
    )

    def build(self, tasks: int, *, seed: int) -> PLE:
        return PLE(tasks, self, seed=seed)


class PLE(Trunk):
    """Levels of gated experts, between which each task and the sharing have a stream of their own.

    At level l, with task streams x_k and shared stream x_s (all of them the embedded input at the first level):

      x_k' = Σ_e softmax(W_k x_k)_e over the experts f_k(x_k) and f_s(x_s)
      x_s' = Σ_e softmax(W_s x_s)_e over the experts of all tasks, f_1(x_1) .. f_K(x_K), and f_s(x_s)

    The last level has no shared gate, and its x_k' [batch, units[-1]] are the representations. `shared` is the
    embedded input: the tasks' paths part there. Gates are observed as 'task_k_level_l' and 'shared_level_l'; their
    own experts come first, in the order of the tasks, and the shared ones last.

    Args:
      tasks: number of tasks.
      config: numbers of levels and experts, and the experts' layers.
      seed: decides the initial weights.

    Reference: Tang, Liu, Zhao, Gong. Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
    Personalized Recommendations. RecSys 2020.
    """

    def __init__(self, tasks: int, config: PLEConfig, *, seed: int, **kwargs):
        super().__init__(name="ple", **kwargs)
        self.levels = [
            Level(tasks, config, last=i == config.levels - 1, seed=seed + 200 * (tasks + 1) * i, name=f"level_{i}")
            for i in range(config.levels)
        ]

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return inputs

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        streams = [shared] * len(self.levels[0].experts)
        for i, level in enumerate(self.levels):
            streams, gates = level(streams, training=training)
            for k, gate in enumerate(gates):
                name = f"task_{k}" if k < level.tasks else "shared"
                self.observed.gates[f"{name}_level_{i}"] = gate
        return streams

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        return self.levels[-1].experts[-1].last_kernel


class Level(keras.layers.Layer):
    """One level: K task streams and the shared one -> the next streams and their gates.

    Streams are lists of tensors [batch, d], the shared one at the end; the last level returns none for it.
    """

    def __init__(self, tasks: int, config: PLEConfig, *, last: bool, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tasks
        numbers = [config.task_experts] * tasks + [config.shared_experts]
        names = [f"task_{k}" for k in range(tasks)] + ["shared"]
        self.experts = [
            Experts(number, config.expert, seed=seed + 200 * k, name=f"experts_{name}")
            for k, (number, name) in enumerate(zip(numbers, names))
        ]
        read = [config.task_experts + config.shared_experts] * tasks
        if not last:
            read.append(sum(numbers))
        self.gates = [
            Gate(number, seed=seed + 200 * k + 199, name=f"gate_{name}")
            for k, (number, name) in enumerate(zip(read, names))
        ]

    def call(self, streams: list[tf.Tensor], training: bool = False) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        outputs = [experts(stream, training=training) for experts, stream in zip(self.experts, streams)]
        *own, common = outputs
        gates = [gate(stream) for gate, stream in zip(self.gates, streams)]
        mixed = [mix(gate, [own[k], common] if k < self.tasks else outputs) for k, gate in enumerate(gates)]
        return mixed, gates
