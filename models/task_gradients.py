"""The one place where task gradients are computed, compared and combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from models.balancing import Balancer, Needs, State, Weights

Gradient: TypeAlias = tf.Tensor
Source: TypeAlias = tf.Tensor | tf.Variable


class Balanced(NamedTuple):
    """What one balanced step found.

    Attributes:
      losses: [K] float32.
      gram: [K, K] float32; zero where it was not computed in this step.
      has_gram: scalar bool: `gram` was computed.
      weights: the task weights used.
      state: the balancer's new state.
      gradients: one dense tensor per source, or None where no loss reaches it.
    """

    losses: tf.Tensor
    gram: tf.Tensor
    has_gram: tf.Tensor
    weights: Weights
    state: State
    gradients: list[Gradient | None]


def balanced_gradients(
    forward: Callable[[], tuple[list[tf.Tensor], tf.Tensor | None]],
    sources: Sequence[Source],
    balancer: Balancer,
    state: State,
    *,
    step: tf.Tensor,
    seed: tf.Tensor,
    probe_every: int = 0,
) -> Balanced:
    """Gradients of the balanced tasks with respect to the sources.

    A source that at least two losses reach is shared: it gets Σ_k w_k g_k with the shared weights. A
    source that one loss reaches is that task's own: w_k g_k with the own weights. Which is which is read
    off the graph. A balancer that needs losses only costs one backward pass.

    Args:
      forward: computes the K scalar losses, and a term outside the balancing (or None); it must read the
        sources themselves.
      sources: variables, and for embedding tables the gathered rows [U, width] of the batch, in which
        repeated ids are one row; a table's gradient is then dense over U rows and never of its size.
      balancer: the balancing method.
      state: its state.
      step: scalar int64, 0 at the first step.
      seed: [2] int32, new at every step.
      probe_every: balancers without need of the Gram matrix get it for the record at every such step;
        0 for never.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        for source in sources:
            tape.watch(source)
        task_losses, extra = forward()
        losses = tf.stack(task_losses)
        gram = tf.zeros([len(task_losses)] * 2, tf.float32)
        if balancer.needs is Needs.LOSSES:
            weights, state = balancer.weigh(tf.stop_gradient(losses), gram, state, step=step, seed=seed)
            total = tf.add_n([weights.own[k] * loss for k, loss in enumerate(task_losses)])
            if extra is not None:
                total += extra

    if balancer.needs is Needs.LOSSES:
        gradients = _dense(tape.gradient(total, sources))
        has_gram = tf.constant(False)
        if probe_every:
            has_gram = tf.equal(step % probe_every, 0)
            gram = tf.cond(has_gram, lambda: gram_matrix(_per_task(tape, task_losses, sources)), lambda: gram)
        return Balanced(losses, gram, has_gram, weights, state, gradients)

    per_task = _per_task(tape, task_losses, sources)
    gram = gram_matrix(per_task)
    weights, state = balancer.weigh(losses, gram, state, step=step, seed=seed)
    gradients = combine(per_task, weights)
    if extra is not None:
        gradients = [_sum(g, e) for g, e in zip(gradients, _dense(tape.gradient(extra, sources)))]
    return Balanced(losses, gram, tf.constant(True), weights, state, gradients)


def gram_matrix(per_task: list[list[Gradient | None]]) -> tf.Tensor:
    """Inner products [K, K], float32, of the tasks' gradients over the shared sources.

    Args:
      per_task: K lists of one gradient per source, None where the task's loss does not reach it.
    """
    gram = tf.zeros([len(per_task)] * 2, tf.float32)
    for gradients in zip(*per_task):
        if sum(g is not None for g in gradients) < 2:
            continue
        like = next(g for g in gradients if g is not None)
        flat = tf.stack([tf.zeros_like(like) if g is None else g for g in gradients])
        flat = tf.cast(tf.reshape(flat, [len(per_task), -1]), tf.float32)
        gram += tf.matmul(flat, flat, transpose_b=True)
    return gram


def combine(per_task: list[list[Gradient | None]], weights: Weights) -> list[Gradient | None]:
    """Σ_k w_k g_k per source: shared weights where two or more tasks reach it, own weights elsewhere."""
    combined: list[Gradient | None] = []
    for gradients in zip(*per_task):
        reached = [(k, g) for k, g in enumerate(gradients) if g is not None]
        used = weights.shared if len(reached) > 1 else weights.own
        combined.append(tf.add_n([tf.cast(used[k], g.dtype) * g for k, g in reached]) if reached else None)
    return combined


def _per_task(tape: tf.GradientTape, losses: list[tf.Tensor], sources: Sequence[Source]) -> list[list[Gradient | None]]:
    return [_dense(tape.gradient(loss, sources)) for loss in losses]


def _dense(gradients: Sequence[Gradient | tf.IndexedSlices | None]) -> list[Gradient | None]:
    # Densifying sums repeated indices, which must happen before any product. The rows of a batch are
    # few: this never makes a tensor of a table's size.
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def _sum(a: Gradient | None, b: Gradient | None) -> Gradient | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
