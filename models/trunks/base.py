"""What a trunk is: from one embedded input to one representation per task, in two stages."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveInt

from models.section import Section
from models.sides import Dense, Stack
from models.trunks.dropout import Dropout

Activation = Literal["relu", "gelu", "swish", "tanh"]
Normalization = Literal["none", "batch", "layer"]


class TrunkConfig(Section):
    """Configuration of a trunk; `build` makes the layer."""

    def build(self, tasks: int, *, seed: int) -> Trunk:
        """Makes the trunk for a chain of `tasks` tasks; `seed` decides its initial weights."""
        raise NotImplementedError


class DenseStack(Section):
    """A stack of dense layers, shared by the configurations that have one."""

    units: tuple[PositiveInt, ...] = Field(min_length=1, description="Width of each layer.")
    activation: Activation = Field("relu", description="Activation of each layer.")
    normalization: Normalization = Field(
        "none",
        description="Normalisation before each activation: over the batch (of all replicas) or over the layer's units.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each layer's outputs dropped in training.")

    @property
    def uses_bias(self) -> bool:
        """Batch normalisation takes any bias away again, and has an offset of its own."""
        return self.normalization != "batch"

    def build(self, name: str, *, seed: int) -> Stack:
        layers: list[keras.layers.Layer] = []
        for i, units in enumerate(self.units):
            initializer = keras.initializers.GlorotUniform(seed=seed + 2 * i)
            activation = self.activation if self.normalization == "none" else None
            layers.append(Dense(units, activation, self.uses_bias, kernel_initializer=initializer, name=f"dense_{i}"))
            if self.normalization == "batch":
                layers.append(keras.layers.BatchNormalization(synchronized=True, name=f"normalization_{i}"))
            elif self.normalization == "layer":
                layers.append(keras.layers.LayerNormalization(name=f"normalization_{i}"))
            if activation is None:
                layers.append(keras.layers.Activation(self.activation, name=f"activation_{i}"))
            if self.dropout:
                layers.append(Dropout(self.dropout, seed=seed + 2 * i + 1, name=f"dropout_{i}"))
        return Stack(layers, name=name)


class Observations:
    """What a forward pass notes beside its result, for the record of the training run.

    A plain object, so that Keras does not track the tensors as parts of the model.
    """

    def __init__(self) -> None:
        self.gates: dict[str, tf.Tensor] = {}


class Trunk(keras.layers.Layer):
    """Turns embedded features [batch, width] into one representation [batch, d_k] per task.

    The work is split at the last tensor that every task reads, so that task gradients can be
    compared there: `shared` computes it, `split` goes on from it to the tasks. What only some tasks
    read (gates, task-specific experts) belongs in `split`. Both may be called without `call`, so a trunk's own
    weights live in sublayers, which cast them to the layer's precision.

    Attributes:
      observed: the last forward pass's gate probabilities [batch, experts] by name.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observed = Observations()

    def shared(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """The last tensor that every task reads. Shape [batch, ...]."""
        raise NotImplementedError

    def split(self, shared: tf.Tensor, inputs: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """One representation [batch, d_k] per task, from what `shared` returned and the input."""
        raise NotImplementedError

    @property
    def last_shared_layer(self) -> list[tf.Variable]:
        """The kernels of the last dense layer that every task reads; [] where the tasks share embeddings only."""
        return []

    @property
    def faster(self) -> list[tuple[tf.Variable, float]]:
        """Variables with a learning rate of their own, each with its factor on the dense layers' rate."""
        return []

    def penalty(self) -> tf.Tensor | None:
        """A loss on the trunk's weights, added outside the balancing; None without one."""
        return None

    def call(self, inputs: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return self.split(self.shared(inputs, training), inputs, training)
