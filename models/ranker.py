"""The multi-task ranker and its train step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import tensorflow as tf
import tf_keras as keras

from models.balancing import Balancer, Run
from models.encoder import Encoder, Lookup
from models.features import Feature
from models.metrics.streaming import binned_metrics, pointwise_metrics
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.replicas import gather_from_replicas, replicas, sum_over_replicas
from models.task_gradients import (
    Balanced,
    Embedded,
    Gradients,
    Network,
    Options,
    Upper,
    balanced_gradients,
    initial_state,
)
from models.tasks import TaskConfig, outputs

Precision = Literal["float32", "mixed_bfloat16"]


class Ranker(keras.Model):
    """Embeds features, runs trunk and heads, and balances the tasks in its train step.

    Calling it on transformed features gives the funnel's probabilities, float32 [batch] each: pctr, pcvr and
    pctcvr for the default chain. `fit` takes batches (features, labels), with the labels float32
    [batch, K] in the order of the chain, NaN where a label is missing; or (features, labels, weights), with weights
    float32 [batch, K] of mean 1 (see `Heads.task_losses`), where negatives were sampled. Evaluation takes no weights.

    Under a `tf.distribute` strategy every replica takes its part of the batch, and the step is that of one
    device with the whole batch.

    Args:
      features: the features, in the order of the configuration.
      table_rows: rows of each embedding table, padding and out-of-vocabulary rows included.
      tasks: the chain.
      model: trunk and heads.
      balancer: the balancing method.
      optimizer: what updates embeddings and dense layers.
      steps: steps of the training run, for schedules of learning rates and weights.
      steps_per_epoch: steps of one pass over the data; all of them by default.
      seed: decides the initial weights and every random choice of training.
      probe_every: how often the Gram matrix is computed for the record when the balancer needs none; 0 for never.
      precision: what dense layers compute in; weights, losses and the Gram matrix are float32 in any case.
      xla: compile the dense part of the train step.
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
        steps_per_epoch: int | None = None,
        seed: int = 0,
        probe_every: int = 100,
        precision: Precision = "float32",
        xla: bool = False,
    ):
        super().__init__(name="ranker")
        self.tasks = tasks
        self._balancer = balancer
        self._optimizer_config = optimizer
        self._seed = seed
        with _computing_in(precision):
            self.encoder = Encoder(features, table_rows, seed=seed)
            self.interaction: keras.layers.Layer | None = None
            if model.interaction is not None:
                self.interaction = model.interaction.build(self.encoder.layout, seed=seed + 5_000)
            self.trunk = model.trunk.build(len(tasks), seed=seed + 10_000)
            self.heads = model.heads.build(tasks, seed=seed + 20_000)
            # Every weight exists from here on, so that a checkpoint or a warm start needs no batch.
            self._logits(tf.zeros([1, self.encoder.dense_width]))
        self._gates = {name: int(gate.shape[-1]) for name, gate in self.trunk.observed.gates.items()}
        self._options = Options(
            probe_every=probe_every,
            groups=self._layers(),
            last_shared=tuple(_place(self._dense, v) for v in self.trunk.last_shared_layer),
            xla=xla,
        )
        groups = max(self._options.groups) + 1
        run = Run(tuple(t.name for t in tasks), steps, steps_per_epoch or steps, groups)
        self.table_optimizer = optimizer.embedding.build(steps)
        self.dense_optimizer = optimizer.dense.build(steps)
        self.faster_optimizers = [optimizer.dense.build(steps, scale) for _, scale in self.trunk.faster]
        self._make_slots()
        k = len(tasks)
        self.balancer_state = {
            name: _state(value, f"balancer_{name}") for name, value in initial_state(balancer, run).items()
        }
        self.task_weights = _state(tf.ones([k]), "task_weights")
        self.last_gram = _state(tf.zeros([k, k]), "last_gram")
        self.probes = _state(tf.constant(0.0), "probes")
        self.conflicts = _state(tf.zeros([k, k]), "conflicts")
        self.left_out = _state(tf.zeros([k]), "left_out")
        self.gate_use = {name: _state(tf.zeros([n]), f"gate_use_{name}") for name, n in self._gates.items()}
        self.gate_entropy = {name: _state(tf.constant(0.0), f"gate_entropy_{name}") for name in self._gates}
        self.loss_means = [keras.metrics.Mean(name=f"loss_{name}") for name in self.heads.loss_names]
        # A training step has no time for them: the steps of an evaluation have.
        self._quality = {o.name: [pointwise_metrics(o.task), binned_metrics(o.task)] for o in outputs(tasks)}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self.loss_means, *(m for pair in self._quality.values() for m in pair)]

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        return self.heads.probabilities(self._logits(self.encoder(features), training))

    @tf.autograph.experimental.do_not_convert  # nothing in it needs conversion, which costs seconds
    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        features, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        lookups = [_over_replicas(lookup) for lookup in self.encoder.lookup(features)]
        rows = self.encoder.rows(lookups)
        embedded = [
            Embedded(tf.gather(r, lookup.positions), lookup.positions, tf.shape(lookup.unique)[0])
            for r, lookup in zip(rows, lookups)
        ]
        step = tf.cast(self.dense_optimizer.iterations, tf.int64)
        balanced = balanced_gradients(
            self._network(features, labels, weights, [e.values for e in embedded]),
            embedded,
            self._dense,
            self._balancer,
            {name: tf.convert_to_tensor(v) for name, v in self.balancer_state.items()},
            step=step,
            seed=tf.stack([tf.constant(self._seed, tf.int32), tf.cast(step, tf.int32)]),
            options=self._options,
        )
        self._apply(balanced.gradients, lookups, rows)
        self._record(balanced)
        return {m.name: m.result() for m in self.loss_means}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: tuple[dict[str, tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        features, labels = data
        logits, of_tasks = self._logits(self.encoder(features)), tf.unstack(labels, axis=1)
        losses = sum_over_replicas(self.heads.task_losses(logits, of_tasks))
        for mean, loss in zip(self.loss_means, losses):
            mean.update_state(loss, sample_weight=tf.shape(labels)[0])
        values = {m.name: m.result() for m in self.loss_means}
        probabilities = self.heads.probabilities(logits)
        by_label = {t.label: y for t, y in zip(self.tasks, of_tasks)}
        for output in outputs(self.tasks):
            y = by_label[output.label]
            if output.given is not None:
                y = tf.where(by_label[output.given] == 1, y, float("nan"))
            for metric in self._quality[output.name]:
                metric.update_state(y, probabilities[output.name])
                values |= metric.result()
        return values

    def _network(
        self, features: dict[str, tf.Tensor], labels: tf.Tensor, weights: tf.Tensor | None, gathered: list[tf.Tensor]
    ) -> Network:
        def lower() -> tuple[tf.Tensor, tf.Tensor]:
            inputs = self._interact(self.encoder.embed(features, gathered, training=True))
            return self.trunk.shared(inputs, training=True), inputs

        def upper(shared: tf.Tensor, inputs: tf.Tensor) -> Upper:
            representations = self.trunk.split(shared, inputs, training=True)
            # Before the losses, which wait for other replicas: those note their gates in the same place.
            gates = dict(self.trunk.observed.gates)
            logits = self.heads(representations, training=True)
            losses = self.heads.task_losses(logits, tf.unstack(labels, axis=1), weights)
            return Upper(losses, self._penalty(logits, weights), gates)

        return Network(lower, upper)

    def _logits(self, embedded: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return self.heads(self.trunk(self._interact(embedded), training=training), training=training)

    def _interact(self, embedded: tf.Tensor) -> tf.Tensor:
        return embedded if self.interaction is None else self.interaction(embedded)

    @property
    def _dense(self) -> list[tf.Variable]:
        """Every trainable weight but the embedding tables."""
        interaction = [] if self.interaction is None else self.interaction.trainable_variables
        parts = (self.encoder.dense_variables, interaction, self.trunk.trainable_variables)
        return [*(v for part in parts for v in part), *self.heads.trainable_variables]

    def _make_slots(self) -> None:
        """Makes the optimizers' variables.

        In the step they would cost a second trace, and replicas cannot make them amid a step that sums over them.
        """
        faster = {v.ref() for v, _ in self.trunk.faster}
        self.table_optimizer._create_all_weights(self.encoder.tables)
        self.dense_optimizer._create_all_weights([v for v in self._dense if v.ref() not in faster])
        for (v, _), optimizer in zip(self.trunk.faster, self.faster_optimizers):
            optimizer._create_all_weights([v])

    def _layers(self) -> tuple[int, ...]:
        """The number of its layer for each table and each dense weight."""
        # Names do not tell: stacks of several tasks give their layers the same ones.
        owners: dict[int, tuple[int, int]] = {}
        for number, layer in enumerate(m for m in self.submodules if isinstance(m, keras.layers.Layer)):
            for weight in layer.trainable_weights:
                size = len(layer.trainable_weights)
                if id(weight) not in owners or size <= owners[id(weight)][0]:
                    owners[id(weight)] = (size, number)
        tables = [(0, -1 - i) for i in range(len(self.encoder.tables))]
        found = [*tables, *(owners[id(v)] for v in self._dense)]
        numbers = {owner: i for i, owner in enumerate(dict.fromkeys(found))}
        return tuple(numbers[owner] for owner in found)

    def _penalty(self, logits: list[tf.Tensor], weights: tf.Tensor | None) -> tf.Tensor | None:
        """What is minimised beside the tasks, outside the balancing; a share of it on each replica."""
        l2 = self._optimizer_config.dense_l2
        terms = [self.trunk.penalty()]
        terms += [l2 * tf.nn.l2_loss(v) for v in self._dense if l2 and "kernel" in v.name]
        kept = [term / replicas() for term in terms if term is not None]
        of_outputs = self.heads.penalty(logits, weights)
        kept += [] if of_outputs is None else [of_outputs]
        return tf.add_n(kept) if kept else None

    def _apply(self, gradients: Gradients, lookups: list[Lookup], rows: list[tf.Tensor]) -> None:
        tables = self.encoder.tables
        if l2 := self._optimizer_config.embedding_l2:
            gradients = [
                *(l2 * r if g is None else g + l2 * r for g, r in zip(gradients, rows)),
                *gradients[len(tables) :],
            ]
        if self._optimizer_config.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._optimizer_config.clip_norm)
        sparse = [
            # The shape as a constant: tf.shape would read, and so may copy, the whole table.
            (tf.IndexedSlices(g, lookup.unique, tf.constant(table.shape.as_list(), tf.int64)), table)
            for g, lookup, table in zip(gradients, lookups, tables)
            if g is not None
        ]
        dense = [(g, v) for g, v in zip(gradients[len(tables) :], self._dense) if g is not None]
        faster = {v.ref(): optimizer for (v, _), optimizer in zip(self.trunk.faster, self.faster_optimizers)}
        _apply(self.table_optimizer, sparse)
        _apply(self.dense_optimizer, [(g, v) for g, v in dense if v.ref() not in faster])
        for g, v in dense:
            if v.ref() in faster:
                _apply(faster[v.ref()], [(g, v)])

    def _record(self, balanced: Balanced) -> None:
        for name, value in balanced.state.items():
            self.balancer_state[name].assign(value)
        self.task_weights.assign(balanced.weights.shared)
        for mean, loss in zip(self.loss_means, tf.unstack(balanced.losses)):
            finite = tf.math.is_finite(loss)
            mean.update_state(tf.where(finite, loss, 0.0), sample_weight=tf.cast(finite, tf.float32))
        self.left_out.assign_add(1.0 - tf.cast(balanced.finite, tf.float32))
        seen = tf.cast(balanced.has_gram, tf.float32)
        self.probes.assign_add(seen)
        self.conflicts.assign_add(seen * tf.cast(balanced.gram < 0, tf.float32))
        self.last_gram.assign(tf.where(balanced.has_gram, balanced.gram, self.last_gram))
        for name, gate in balanced.observed.items():
            gate = tf.cast(gate, tf.float32)
            entropies = -tf.reduce_sum(tf.math.xlogy(gate, gate), axis=1)
            # Sums, because a replica may have no row of the last batch.
            rows = tf.cast(tf.shape(gate)[0], tf.float32)
            use, entropy, rows = sum_over_replicas([tf.reduce_sum(gate, axis=0), tf.reduce_sum(entropies), rows])
            self.gate_use[name].assign(use / rows)
            self.gate_entropy[name].assign(entropy / rows)


def _over_replicas(lookup: Lookup) -> Lookup:
    """The same distinct ids on every replica, so that gradients of rows can be added up."""
    if replicas() == 1:
        return lookup
    unique, where = tf.unique(tf.concat([lookup.unique, gather_from_replicas(lookup.unique)], axis=0))
    # The ids of this replica stand first above; what counts is an order that all replicas share.
    order = tf.argsort(unique)
    rank = tf.math.invert_permutation(order)
    return Lookup(tf.gather(unique, order), tf.gather(tf.gather(rank, where), lookup.positions))


def _apply(optimizer: keras.optimizers.Optimizer, pairs: Sequence[tuple]) -> None:
    if pairs:
        # The gradients are already those of all replicas together.
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)


def _state(value: tf.Tensor, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)


def _place(variables: Sequence[tf.Variable], variable: tf.Variable) -> int:
    return next(i for i, v in enumerate(variables) if v is variable)


@contextmanager
def _computing_in(precision: Precision) -> Iterator[None]:
    """Layers made inside compute in this precision; the process's own policy is restored afterwards."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
