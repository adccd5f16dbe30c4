"""Products of features before the trunk.

A new interaction is a configuration here, and its name in the union below.
"""

from __future__ import annotations

from typing import Annotated, Literal, Union

import tensorflow as tf
import tf_keras as keras
from pydantic import Field, PositiveInt

from models.section import Section

Layout = tuple[tuple[int, int], ...]
"""Offset and width of each embedded feature within the embedded input, in its order."""


class CrossConfig(Section):
    """Cross layers multiply the input with linear functions of it (DCN v2, Wang et al. 2021)."""

    name: Literal["cross"]
    layers: PositiveInt = Field(2, description="Number of cross layers; each raises the degree of the products by 1.")
    projection_dim: PositiveInt | None = Field(
        None, description="Rank of each layer's matrix; full by default. A quarter of the width often suffices."
    )

    def build(self, layout: Layout, seed: int) -> Cross:
        return Cross(self.layers, self.projection_dim, seed=seed)


class DotConfig(Section):
    """Inner products of all pairs of embeddings of equal width, beside the input (DLRM, Naumov et al. 2019)."""

    name: Literal["dot"]

    def build(self, layout: Layout, seed: int) -> Dot:
        return Dot(layout)


AnyInteraction = Annotated[Union[CrossConfig, DotConfig], Field(discriminator="name")]


class Cross(keras.layers.Layer):
    """A stack of cross layers, from [batch, width] to [batch, width].

        x_{i+1} = x_0 ∘ (W_i x_i + b_i) + x_i,    W_i = U_i V_i with a projection

    The weights are made on the first call.

    Args:
      layers: number of cross layers.
      projection_dim: rank of W; None for a full matrix.
      seed: decides the initial weights.

    Reference: Wang, Shivanna, Cheng, Jain, Lin, Hong, Chi. DCN V2: Improved Deep & Cross Network and Practical
    Lessons for Web-scale Learning to Rank Systems. WWW 2021.
    """

    def __init__(self, layers: int, projection_dim: int | None, *, seed: int, **kwargs):
        super().__init__(name="cross", **kwargs)
        from tensorflow_recommenders.layers.feature_interaction import dcn  # slow to import

        self._seed = seed
        self.crosses = [dcn.Cross(projection_dim, name=f"cross_{i}") for i in range(layers)]

    def build(self, input_shape: tf.TensorShape) -> None:
        x = tf.zeros([1, input_shape[-1]], self.compute_dtype)
        for cross in self.crosses:
            cross(x, x)
        kernels = [v for cross in self.crosses for v in cross.trainable_variables if "kernel" in v.name]
        for i, kernel in enumerate(kernels):
            # Drawn here, because the library gives U and V of one layer the same seed and so the same numbers.
            kernel.assign(keras.initializers.TruncatedNormal(stddev=0.05, seed=self._seed + i)(kernel.shape))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = inputs
        for cross in self.crosses:
            x = cross(inputs, x)
        return x


class Dot(keras.layers.Layer):
    """The input, and the inner products of its embeddings: [batch, width] to [batch, width + pairs].

        y = [x, (⟨e_i, e_j⟩ for j < i of one width)]

    Pairs come width by width, ordered by i, then j. Numbers take no part: unlike in the paper no network embeds them.

    Args:
      layout: where the embeddings lie within the input.

    Raises:
      ValueError: if no two embeddings have the same width.

    Reference: Naumov et al. Deep Learning Recommendation Model for Personalization and Recommendation Systems.
    arXiv:1906.00091, 2019.
    """

    def __init__(self, layout: Layout, **kwargs):
        super().__init__(name="dot", **kwargs)
        widths = dict.fromkeys(width for _, width in layout)
        members = [[(offset, w) for offset, w in layout if w == width] for width in widths]
        # Tuples, because Keras wraps lists and cannot save all of them.
        self._groups = tuple(tuple(group) for group in members if len(group) > 1)
        if not self._groups:
            raise ValueError(
                f"interaction dot: expected at least two embedded features of the same dimension, got the "
                f"dimensions {[width for _, width in layout]}"
            )
        from tensorflow_recommenders.layers.feature_interaction import dot_interaction  # slow to import

        # All products, of which `call` picks half: the library's own choice has a shape that XLA cannot know.
        self.dot = dot_interaction.DotInteraction(skip_gather=True, name="products")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        parts = [inputs]
        for group in self._groups:
            products = self.dot([inputs[:, offset : offset + width] for offset, width in group])
            n = len(group)
            parts.append(tf.gather(products, [n * i + j for i in range(n) for j in range(i)], axis=1))
        return tf.concat(parts, axis=1)
