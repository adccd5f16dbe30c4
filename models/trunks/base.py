"""What a trunk is: from one embedded input to one representation per task, in two stages."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveInt

from models.section import Section

Activation = Literal["relu", "gelu", "swish", "tanh"]


class TrunkConfig(Section):
    """Configuration of a trunk; `build` makes the layer."""

    def build(self, tasks: int, *, seed: int) -> Trunk:
        """Makes the trunk for a chain of `tasks` tasks; `seed` decides its initial weights."""
        raise NotImplementedError


class DenseStack(Section):
    """A stack of dense layers, shared by the configurations that have one."""

    units: tuple[PositiveInt, ...] = Field(min_length=1, description="Width of each layer.")
    activation: Activation = Field("relu", description="Activation of each layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each layer's outputs dropped in training.")

    def build(self, name: str, *, seed: int) -> keras.Sequential:
        layers: list[keras.layers.Layer] = []
        for i, units in enumerate(self.units):
            initializer = keras.initializers.GlorotUniform(seed=seed + 2 * i)
            layers.append(keras.layers.Dense(units, self.activation, kernel_initializer=initializer, name=f"dense_{i}"))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout, seed=seed + 2 * i + 1, name=f"dropout_{i}"))
        return keras.Sequential(layers, name=name)


class Trunk(keras.layers.Layer):
    """Turns embedded features [batch, width] into one representation [batch, d_k] per task.

    The work is split at the last tensor that every task reads, so that task gradients can be
    compared there: `shared` computes it, `split` goes on from it to the tasks. What only some tasks
    read (gates, task-specific experts) belongs in `split`.
    """

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """The last tensor that every task reads. Shape [batch, ...]."""
        raise NotImplementedError

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """One representation [batch, d_k] per task, from what `shared` returned and the input."""
        raise NotImplementedError

    def call(self, inputs: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return self.split(self.shared(inputs, training), inputs, training)
