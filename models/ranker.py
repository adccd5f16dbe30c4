"""The multi-task ranker and its train step."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from models.balancing import Balancer
from models.encoder import Encoder
from models.features import Feature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.task_gradients import Balanced, balanced_gradients
from models.tasks import TaskConfig


class Ranker(keras.Model):
    """Embeds features, runs trunk and heads, and balances the tasks in its train step.

    Calling it on transformed features gives the funnel's probabilities, float32 [batch] each: pctr, pcvr and
    pctcvr for the default chain. `fit` takes batches (features, labels), with the labels float32
    [batch, K] in the order of the chain.

    Args:
      features: the features, in the order of the configuration.
      table_rows: rows of each embedding table, padding and out-of-vocabulary rows included.
      tasks: the chain.
      model: trunk and heads.
      balancer: the balancing method.
      optimizer: what updates embeddings and dense layers.
      steps: steps of the training run, for schedules of the learning rate.
      seed: decides the initial weights and every random choice of training.
      probe_every: how often the Gram matrix is computed for the record when the balancer needs none; 0 for never.
    """

    def __init__(
        self,
        features: tuple[Feature, ...],
        table_rows: dict[str, int],
        tasks: tuple[TaskConfig, ...],
        model: ModelConfig,
        balancer: Balancer,
        optimizer: OptimizerConfig,
        *,
        steps: int = 1,
        seed: int = 0,
        probe_every: int = 100,
    ):
        super().__init__(name="ranker")
        self.encoder = Encoder(features, table_rows, seed=seed)
        self.trunk = model.trunk.build(len(tasks), seed=seed + 10_000)
        self.heads = model.heads.build(tasks, seed=seed + 20_000)
        self.tasks = tasks
        self._balancer = balancer
        self._optimizer_config = optimizer
        self._seed = seed
        self._probe_every = probe_every
        self.dense_optimizer = optimizer.dense.build(steps)
        self.table_optimizer = optimizer.embedding.build(steps)
        self.balancer_state = {
            name: tf.Variable(value, trainable=False, name=f"balancer_{name}")
            for name, value in balancer.initial_state(tuple(t.name for t in tasks)).items()
        }
        k = len(tasks)
        self.task_weights = tf.Variable(tf.ones([k]), trainable=False, name="task_weights")
        self.last_gram = tf.Variable(tf.zeros([k, k]), trainable=False, name="last_gram")
        self.probes = tf.Variable(0.0, trainable=False, name="probes")
        self.conflicts = tf.Variable(tf.zeros([k, k]), trainable=False, name="conflicts")
        self.loss_means = [keras.metrics.Mean(name=f"loss_{name}") for name in self.heads.loss_names]
        # Every weight exists from here on, so that a checkpoint or a warm start needs no batch.
        self._logits(tf.zeros([1, self.encoder.dense_width]), training=False)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.loss_means

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        return self.heads.probabilities(self._logits(self.encoder(features), training))

    def train_step(self, data: tuple[dict[str, tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        features, labels = data
        lookups = self.encoder.lookup(features)
        rows = self.encoder.rows(lookups)
        variables = [*self.trunk.trainable_variables, *self.heads.trainable_variables]

        def forward() -> tuple[list[tf.Tensor], tf.Tensor | None]:
            logits = self._logits(self.encoder.embed(features, lookups, rows), training=True)
            return self.heads.task_losses(logits, tf.unstack(labels, axis=1)), self._penalty(rows, variables)

        step = tf.cast(self.dense_optimizer.iterations, tf.int64)
        balanced = balanced_gradients(
            forward,
            [*rows, *variables],
            self._balancer,
            {name: tf.convert_to_tensor(v) for name, v in self.balancer_state.items()},
            step=step,
            seed=tf.stack([tf.constant(self._seed, tf.int32), tf.cast(step, tf.int32)]),
            probe_every=self._probe_every,
        )
        self._apply(balanced, lookups, variables)
        self._record(balanced)
        return {m.name: m.result() for m in self.loss_means}

    def test_step(self, data: tuple[dict[str, tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        features, labels = data
        losses = self.heads.task_losses(self._logits(self.encoder(features), False), tf.unstack(labels, axis=1))
        for mean, loss in zip(self.loss_means, losses):
            mean.update_state(loss, sample_weight=tf.shape(labels)[0])
        return {m.name: m.result() for m in self.loss_means}

    def _logits(self, embedded: tf.Tensor, training: bool) -> list[tf.Tensor]:
        return self.heads(self.trunk(embedded, training=training), training=training)

    def _penalty(self, rows: list[tf.Tensor], variables: list[tf.Variable]) -> tf.Tensor | None:
        """Regularisation, outside the balancing."""
        config = self._optimizer_config
        terms = [config.embedding_l2 * tf.nn.l2_loss(r) for r in rows if config.embedding_l2]
        terms += [config.dense_l2 * tf.nn.l2_loss(v) for v in variables if config.dense_l2 and "kernel" in v.name]
        return tf.add_n(terms) if terms else None

    def _apply(self, balanced: Balanced, lookups: list, variables: list[tf.Variable]) -> None:
        gradients = balanced.gradients
        if self._optimizer_config.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._optimizer_config.clip_norm)
        tables = self.encoder.tables
        sparse = [
            (tf.IndexedSlices(g, lookup.unique, tf.shape(table, out_type=lookup.unique.dtype)), table)
            for g, lookup, table in zip(gradients, lookups, tables)
            if g is not None
        ]
        if sparse:
            self.table_optimizer.apply_gradients(sparse)
        dense = [(g, v) for g, v in zip(gradients[len(tables) :], variables) if g is not None]
        self.dense_optimizer.apply_gradients(dense)

    def _record(self, balanced: Balanced) -> None:
        for name, value in balanced.state.items():
            self.balancer_state[name].assign(value)
        self.task_weights.assign(balanced.weights.shared)
        for mean, loss in zip(self.loss_means, tf.unstack(balanced.losses)):
            mean.update_state(loss)
        seen = tf.cast(balanced.has_gram, tf.float32)
        self.probes.assign_add(seen)
        self.conflicts.assign_add(seen * tf.cast(balanced.gram < 0, tf.float32))
        self.last_gram.assign(tf.where(balanced.has_gram, balanced.gram, self.last_gram))
