"""The unit that mixes the tasks' hidden layers, and the separate layers that it mixes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from models.trunks.base import DenseStack


def task_layers(tasks: int, bottom: DenseStack, *, seed: int) -> list[list[keras.layers.Layer]]:
    """The layers of `bottom` one by one and for each task apart: [layer][task]."""
    return [
        [
            bottom.model_copy(update={"units": (units,)}).build(f"layer_{i}_task_{k}", seed=seed + 1000 * k + 10 * i)
            for k in range(tasks)
        ]
        for i, units in enumerate(bottom.units)
    ]


def kernels(layers: list[keras.layers.Layer]) -> list[tf.Variable]:
    """The kernels of these layers, in their order."""
    return [v for layer in layers for v in layer.trainable_variables if "kernel" in v.name]


class Stitch(keras.layers.Layer):
    """Mixes the outputs of K tasks' layers linearly, the same for all units of a part.

        x̃_i = Σ_j A_ij x_j,    i, j = 1 .. K · parts

    where the x_j are the outputs [batch, units / parts] cut into equal parts, those of one task side by side.
    Called on K tensors [batch, units]; gives K tensors [batch, units].

    A is kept as one variable [parts, K · parts] per task: the last unit's rows are each read by one task only.

    Args:
      tasks: K.
      parts: parts into which each task's units are cut.
      keep: initial weight of a part on itself; the rest of 1 is spread evenly over all others.
    """

    def __init__(self, tasks: int, *, parts: int = 1, keep: float, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tasks
        self.parts = parts
        self.keep = keep
        self.rows: list[tf.Variable] = []

    def build(self, input_shape) -> None:
        n = self.tasks * self.parts
        matrix = np.full([n, n], (1.0 - self.keep) / (n - 1))
        np.fill_diagonal(matrix, self.keep)
        for k in range(self.tasks):
            of_task = matrix[k * self.parts : (k + 1) * self.parts]
            initializer = keras.initializers.Constant(of_task.tolist())
            self.rows.append(self.add_weight(f"task_{k}", of_task.shape, initializer=initializer))
        super().build(input_shape)

    def call(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        units = inputs[0].shape[-1]
        parts = tf.concat([tf.reshape(x, [-1, self.parts, units // self.parts]) for x in inputs], axis=1)
        return [tf.reshape(tf.einsum("pn,bnu->bpu", rows, parts), [-1, units]) for rows in self.rows]
