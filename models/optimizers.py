"""Optimizers: row-sparse for embedding tables, dense for everything else."""

from __future__ import annotations



import tf_keras as keras
from pydantic import Field, PositiveFloat

from models.section import Section


class DenseOptimizer(Section):
    """Adam for the dense layers."""

    learning_rate: PositiveFloat = 0.001
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-7

    def build(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.legacy.Adam(self.learning_rate, self.beta_1, self.beta_2, self.epsilon)


class EmbeddingOptimizer(Section):
    """Adagrad for the embedding tables. Its state of a row moves only when the row is looked up, while
    Adam's moments would touch every row of every table at every step."""

    learning_rate: PositiveFloat = 0.01
    initial_accumulator: PositiveFloat = Field(
        # Losses are means over the batch, so a row's gradient is of the order 1 / batch_size: Adagrad's usual 0.1
        # would drown its square, and the embeddings would hardly learn in one epoch.
        1e-6,
        description="Where the sums of squared gradients begin.",
    )
    epsilon: PositiveFloat = 1e-7

    def build(self) -> keras.optimizers.Optimizer:
        # The legacy class: it sums repeated indices and updates only the rows in an IndexedSlices.
        return keras.optimizers.legacy.Adagrad(self.learning_rate, self.initial_accumulator, self.epsilon)


class OptimizerConfig(Section):
    """One optimizer for the dense layers, one for the embedding tables."""

    dense: DenseOptimizer = DenseOptimizer()
    embedding: EmbeddingOptimizer = EmbeddingOptimizer()
    embedding_l2: float = Field(0.0, ge=0, description="L2 penalty on the embedding rows that a batch looks up.")
    dense_l2: float = Field(0.0, ge=0, description="L2 penalty on the kernels of the dense layers.")
    clip_norm: PositiveFloat | None = Field(None, description="Bound on the global norm of the combined gradient.")


