"""The one place where task gradients are computed, compared and combined.

A forward pass is cut at the last tensor that every task reads. A task's gradient is taken above the cut, which is
cheap, and then pulled below it, which is what costs. So the weights of a step can be applied in three ways:
to the losses (one pass), to the gradients at the cut (one pass below it), or to the gradients of every
parameter (a pass below the cut per task).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from models.balancing import Balancer, GramBalancer, Needs, Run, State, Weights
from models.replicas import replicas, sum_over_replicas

Gradient: TypeAlias = tf.Tensor
Gradients: TypeAlias = list[Gradient | None]
"""One gradient per source, None where the target does not depend on it."""

_HELD = ("held_shared", "held_own")


class Embedded(NamedTuple):
    """Embeddings that a batch looked up in one table.

    Attributes:
      values: [N, width], the embedding of every id of the batch.
      positions: [N] int, the row of each id among the batch's distinct ones.
      rows: scalar int, how many distinct ids there are.
    """

    values: tf.Tensor
    positions: tf.Tensor
    rows: tf.Tensor


class Upper(NamedTuple):
    """What stands above the cut.

    Attributes:
      losses: K scalars.
      penalty: a term outside the balancing, or None.
      observed: tensors for the record of the run.
    """

    losses: list[tf.Tensor]
    penalty: tf.Tensor | None
    observed: dict[str, tf.Tensor]


class Network(NamedTuple):
    """A forward pass in two parts.

    Attributes:
      lower: computes the cut: the last tensor that every task reads, and the trunk's input where tasks read that
        beside it. All that lies below the cut is shared by all tasks.
      upper: computes the losses from the cut.
    """

    lower: Callable[[], tuple[tf.Tensor, tf.Tensor]]
    upper: Callable[[tf.Tensor, tf.Tensor], Upper]


class Options(NamedTuple):
    """How the gradients are computed.

    Attributes:
      probe_every: balancers without need of the Gram matrix get it for the record at every such step; 0 for never.
      groups: per variable, the number of its layer, for balancers that are `per_layer`; embedding tables come first.
      last_shared: positions among the variables of the last shared layer; empty: its gradients are taken at the cut.
      xla: compile the dense part of the step; the embeddings' part has shapes that change with every batch.
    """

    probe_every: int = 0
    groups: tuple[int, ...] = ()
    last_shared: tuple[int, ...] = ()
    xla: bool = False


class Balanced(NamedTuple):
    """What one balanced step found.

    Attributes:
      losses: [K] float32.
      gram: [K, K] float32, summed over layers; zero where it was not computed in this step.
      has_gram: scalar bool: `gram` was computed.
      finite: [K] bool: the task's loss and gradient are finite; a task for which they are not was left out.
      weights: the task weights used, [K] each; shared ones are means over layers for balancers that are `per_layer`.
      state: the balancer's new state.
      gradients: one dense tensor per table (over its looked-up rows) and per variable, or None where no loss
        reaches it.
      observed: as `Upper` has it.
    """

    losses: tf.Tensor
    gram: tf.Tensor
    has_gram: tf.Tensor
    finite: tf.Tensor
    weights: Weights
    state: State
    gradients: Gradients
    observed: dict[str, tf.Tensor]


def initial_state(balancer: Balancer, run: Run) -> State:
    """The balancer's state before the first step, and the weights that it holds between two Gram matrices."""
    state = balancer.initial_state(run)
    if isinstance(balancer, GramBalancer) and balancer.refresh_every > 1:
        k = len(run.tasks)
        shared = tf.ones([run.groups, k] if balancer.per_layer else [k])
        state = state | dict(zip(_HELD, (shared, tf.ones([k]))))
    return state


def balanced_gradients(
    network: Network,
    embedded: Sequence[Embedded],
    variables: Sequence[tf.Variable],
    balancer: Balancer,
    state: State,
    *,
    step: tf.Tensor,
    seed: tf.Tensor,
    options: Options = Options(),
) -> Balanced:
    """Gradients of the balanced tasks with respect to embedding rows and variables.

    What at least two losses reach is shared: it gets Σ_k w_k g_k with the shared weights. What one loss
    reaches is that task's own: w_k g_k with the own weights. Which is which is read off the graph.
    Gradients of repeated ids are summed before any product, and nothing of a table's size is made.

    A task whose loss or gradient is not finite is left out: its gradient counts as 0, and the balancer's state stays.

    With several replicas the losses are parts of the global means (see `Heads.task_losses`), and all that is
    returned is summed over the replicas.

    Args:
      network: the forward pass; it reads `embedded` and `variables` itself.
      embedded: per table, what the batch looked up.
      variables: the dense weights.
      balancer: the balancing method.
      state: its state, as `initial_state` or the step before gave it.
      step: scalar int64, 0 at the first step.
      seed: [2] int32, new at every step.
      options: see there.
    """
    step_of = _Step(network, embedded, variables, balancer, state, step, seed, options)
    if balancer.needs is not Needs.GRAM:
        return step_of.of_losses()
    assert isinstance(balancer, GramBalancer)
    if balancer.level == "representation":
        return step_of.at_the_cut()
    return step_of.of_parameters()


class _Pass:
    """One forward pass and the gradients of its losses above and below the cut."""

    def __init__(self, network: Network, sources: Sequence[tf.Tensor | tf.Variable]):
        self.sources = list(sources)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as self._below:
            self._watch(self._below, self.sources)
            # Copies, because a trunk may return its input as the tensor that every task reads.
            self._ends = [tf.identity(t) for t in network.lower()]
        cut = [tf.identity(t) for t in self._ends]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as self._above:
            self._watch(self._above, [*cut, *self.sources])
            self.upper = network.upper(cut[0], cut[1])
        self._cut = cut
        self.losses = tf.stack([tf.cast(loss, tf.float32) for loss in self.upper.losses])
        self.tasks = len(self.upper.losses)

    @staticmethod
    def _watch(tape: tf.GradientTape, tensors: Sequence[tf.Tensor | tf.Variable]) -> None:
        for tensor in tensors:
            tape.watch(tensor)

    def above(self, targets: Sequence[tf.Tensor], weights: Sequence[tf.Tensor] = ()) -> tuple[Gradients, Gradients]:
        """Gradients of Σ weight · target (weight 1 by default) at the cut, and of what lies above it per source."""
        cotangents = [tf.cast(w, t.dtype) for w, t in zip(weights, targets)]
        cotangents += [tf.ones_like(t) for t in targets[len(weights) :]]
        sources = [*self._cut, *self.sources]
        found = _dense(self._above.gradient(list(targets), sources, output_gradients=cotangents))
        return found[: len(self._cut)], found[len(self._cut) :]

    def below(self, cotangents: Gradients, sources: Sequence[tf.Tensor | tf.Variable] | None = None) -> Gradients:
        """Pulls gradients at the cut down to the sources."""
        sources = self.sources if sources is None else sources
        reached = [(end, c) for end, c in zip(self._ends, cotangents) if c is not None]
        if not reached:
            return [None] * len(sources)
        ends, given = zip(*reached)
        return _dense(self._below.gradient(list(ends), sources, output_gradients=list(given)))

    def whole(self, targets: Sequence[tf.Tensor], weights: Sequence[tf.Tensor] = ()) -> Gradients:
        """Gradients of Σ weight · target per source, in one backward pass."""
        cotangents, own = self.above(targets, weights)
        return _sums(own, self.below(cotangents))

    def per_task(self) -> list[Gradients]:
        """Every task's gradients, a backward pass each."""
        return [self.whole([loss]) for loss in self.upper.losses]

    def per_task_above(self) -> list[tuple[Gradients, Gradients]]:
        """Every task's gradients at the cut, and of what lies above it."""
        return [self.above([loss]) for loss in self.upper.losses]

    def penalty(self) -> Gradients | None:
        return None if self.upper.penalty is None else self.whole([self.upper.penalty])


class _Step:
    """One step of a balancer, in each of the three ways to apply its weights."""

    def __init__(self, network, embedded, variables, balancer, state, step, seed, options):
        self.network: Network = network
        self.embedded: Sequence[Embedded] = embedded
        self.sources = [*(e.values for e in embedded), *variables]
        self.balancer: Balancer = balancer
        self.state: State = state
        self.step = step
        self.seed = seed
        self.options: Options = options

    def of_losses(self) -> Balanced:
        """Weights the losses and goes back once; looks at the task gradients where that is asked for."""
        return self._finished(*self._compiled(self._of_losses)())

    def _of_losses(self) -> tuple:
        forward = _Pass(self.network, self.sources)
        losses = self._global(forward.losses)
        gram = tf.zeros([forward.tasks] * 2)
        if self.balancer.needs is Needs.LAST_SHARED:
            gram = self._last_shared_gram(forward)
            gram = _mask_gram(gram, tf.math.is_finite(losses) & tf.math.is_finite(tf.linalg.diag_part(gram)))
        weights, state = self._weigh(losses, gram)
        targets = [*forward.upper.losses, *([] if forward.upper.penalty is None else [forward.upper.penalty])]
        gradients = forward.whole(targets, tf.unstack(weights.own))
        finite = tf.math.is_finite(losses)
        several = replicas() > 1
        if several and self.options.probe_every:
            # No replica may enter a branch in which it would wait for the others: the look is taken at every
            # step, at the cut, where it costs little and adds up over the replicas.
            gram = self._global(_gram_at_cut([cut for cut, _ in forward.per_task_above()]))
            return losses, gram, tf.constant(True), finite, weights, state, gradients, forward.upper.observed
        if several:
            return losses, gram, tf.constant(False), finite, weights, state, gradients, forward.upper.observed

        fine = tf.reduce_all(finite) & tf.math.is_finite(_square(gradients))
        probed = tf.equal(self.step % (self.options.probe_every or 1), 0) & bool(self.options.probe_every)

        def look() -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            per_task = forward.per_task()
            good = finite & tf.stack([tf.math.is_finite(_square(g)) for g in per_task])
            if self.options.xla:
                seen = _gram_at_cut([cut for cut, _ in forward.per_task_above()])
            else:
                seen = _sum_groups(_Stacks(per_task, self._rows).gram())
            kept = [[_masked(good[k], g) for g in gradients_k] for k, gradients_k in enumerate(per_task)]
            again = _sums(_Stacks(kept).combine(weights), forward.penalty())
            chosen = [tf.where(fine, a, b) for a, b in zip(gradients, again) if a is not None and b is not None]
            return _mask_gram(seen, good), good, chosen

        def pass_by() -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            return tf.zeros_like(gram), finite, [g for g in gradients if g is not None]

        seen, finite, present = tf.cond(probed | ~fine, look, pass_by)
        left = iter(present)
        gradients = [None if g is None else next(left) for g in gradients]
        return losses, seen, probed | ~fine, finite, weights, state, gradients, forward.upper.observed

    def at_the_cut(self) -> Balanced:
        """Compares and combines the gradients at the cut, and goes back once below it."""
        return self._finished(*self._compiled(self._at_the_cut)())

    def _at_the_cut(self, held: Weights | None = None) -> tuple:
        forward = _Pass(self.network, self.sources)
        losses = self._global(forward.losses)
        cuts, owns = (_Stacks(list(gradients)) for gradients in zip(*forward.per_task_above()))
        cut_gram, own_gram = cuts.gram(), owns.gram()
        squares = cuts.squares(cut_gram) + owns.squares(own_gram)
        finite = tf.math.is_finite(losses) & tf.math.is_finite(self._global(squares))
        for stacks in (cuts, owns):
            stacks.leave_out(~finite)
        refresh = self.balancer.refresh_every if isinstance(self.balancer, GramBalancer) else 1
        gram = _mask_gram(self._global(_sum_groups(cut_gram)), finite)
        if held is not None:
            has_gram, weights, state = tf.constant(False), held, self.state
        elif refresh == 1:
            has_gram = tf.constant(True)
            weights, state = self._weigh(losses, gram)
        else:
            # The products are cheap beside the passes, so only the weights are held.
            has_gram = tf.equal(self.step % refresh, 0)
            weights, state = self._held_or_new(has_gram, *self._weigh(losses, gram))
        # What lies below the cut is shared, also where one task alone reads a tensor of the cut.
        cotangents = cuts.combine(Weights(weights.shared, weights.shared))
        combined = owns.combine(weights)
        if forward.upper.penalty is not None:
            penalty_cut, penalty_own = forward.above([forward.upper.penalty])
            cotangents, combined = _sums(cotangents, penalty_cut), _sums(combined, penalty_own)
        gradients = _sums(combined, forward.below(cotangents))
        return losses, gram, has_gram, finite, weights, state, gradients, forward.upper.observed

    def of_parameters(self) -> Balanced:
        """Compares and combines the gradients of every parameter: exact, a backward pass per task."""
        assert isinstance(self.balancer, GramBalancer)
        refresh = self.balancer.refresh_every
        if refresh == 1:
            return self._guarded(*self._of_parameters())
        if replicas() > 1:
            raise ValueError(
                f"balancer.refresh_every: expected 1 with several replicas at level parameters, got {refresh}; "
                f"use level representation"
            )
        held = Weights(*(self.state[name] for name in _HELD))
        if self.balancer.per_layer:
            held = Weights(tf.reduce_mean(held.shared, axis=0), held.own)

        def new() -> tuple:
            return _packed(*self._of_parameters())

        def hold() -> tuple:
            *rest, gradients, observed = self._compiled(lambda: self._at_the_cut(held))()
            return _packed(*rest, self._rows(gradients), observed)

        return self._guarded(*_unpacked(tf.cond(tf.equal(self.step % refresh, 0), new, hold), len(self.sources)))

    def _of_parameters(self) -> tuple:
        def backward() -> tuple:
            forward = _Pass(self.network, self.sources)
            return forward.losses, forward.per_task(), forward.penalty(), forward.upper.observed

        losses, per_task, penalty, observed = self._compiled(backward)()
        losses = self._global(losses)
        stacks = _Stacks(per_task, self._rows, groups=self._groups())
        stacks.sum_over_replicas()
        grams = stacks.gram()
        finite = tf.math.is_finite(losses) & tf.math.is_finite(stacks.squares(grams))
        stacks.leave_out(~finite)
        weights, state = self._weigh(losses, _mask_gram(grams if self._per_layer else _sum_groups(grams), finite))
        gradients = stacks.combine(weights)
        if penalty is not None:
            gradients = _sums(gradients, _sum_over_replicas(self._rows(penalty)))
        if self._per_layer:
            weights = Weights(tf.reduce_mean(weights.shared, axis=0), weights.own)
        gram = _mask_gram(_sum_groups(grams), finite)
        return losses, gram, tf.constant(True), finite, weights, state, gradients, observed

    @property
    def _per_layer(self) -> bool:
        return isinstance(self.balancer, GramBalancer) and self.balancer.per_layer

    def _groups(self) -> tuple[int, ...]:
        return self.options.groups if self._per_layer else (0,) * len(self.sources)

    def _compiled(self, function: Callable[[], tuple]) -> Callable[[], tuple]:
        return tf.function(function, jit_compile=True, autograph=False) if self.options.xla else function

    def _weigh(self, losses: tf.Tensor, gram: tf.Tensor) -> tuple[Weights, State]:
        """The balancer's verdict and what its state would be next; a loss that is not finite counts as 0."""
        given = tf.where(tf.math.is_finite(losses), losses, 0.0)
        inner = {name: value for name, value in self.state.items() if name not in _HELD}
        weights, state = self.balancer.weigh(tf.stop_gradient(given), gram, inner, step=self.step, seed=self.seed)
        if _HELD[0] in self.state:
            state |= dict(zip(_HELD, weights))
        return weights, state

    def _held_or_new(self, refresh: tf.Tensor, weights: Weights, state: State) -> tuple[Weights, State]:
        held = Weights(*(self.state[name] for name in _HELD))
        chosen = {name: tf.where(refresh, state[name], self.state[name]) for name in self.state}
        return Weights(*(tf.where(refresh, new, old) for new, old in zip(weights, held))), chosen

    def _last_shared_gram(self, forward: _Pass) -> tf.Tensor:
        layer = [self.sources[len(self.embedded) + i] for i in self.options.last_shared]
        per_task = []
        for loss in forward.upper.losses:
            cut, own = forward.above([loss])
            if not layer:
                per_task.append(cut)
                continue
            kept = [own[len(self.embedded) + i] for i in self.options.last_shared]
            per_task.append(_sums(kept, forward.below(cut, layer)))
        stacks = _Stacks(per_task)
        if layer:
            # Each replica has its part of a gradient; at the cut, it has the rows of its part of the batch.
            stacks.sum_over_replicas()
            return _sum_groups(stacks.gram())
        return self._global(_sum_groups(stacks.gram()))

    def _rows(self, gradients: Gradients) -> Gradients:
        """Sums the gradients of repeated ids, so that a table's gradient is over its looked-up rows."""
        rows = [
            None if g is None else tf.math.unsorted_segment_sum(tf.cast(g, tf.float32), e.positions, e.rows)
            for e, g in zip(self.embedded, gradients)
        ]
        return [*rows, *gradients[len(rows) :]]

    @staticmethod
    def _global(value: tf.Tensor) -> tf.Tensor:
        return sum_over_replicas([value])[0]

    def _finished(self, *found) -> Balanced:
        """Brings gradients of looked-up values to rows, and of replicas together."""
        *rest, gradients, observed = found
        brought = (*rest, _sum_over_replicas(self._rows(gradients)), observed)
        return self._guarded(*brought)

    def _guarded(self, losses, gram, has_gram, finite, weights, state, gradients, observed) -> Balanced:
        """Leaves the whole step out where the combined gradient is still not finite.

        The balancer's state stays as it was where any task was left out.
        """
        fine = tf.math.is_finite(_square(gradients))
        finite = finite & fine
        moves = tf.reduce_all(finite)
        state = {name: tf.where(moves, new, self.state[name]) for name, new in state.items()}
        safe = tf.cond(
            fine,
            lambda: [g for g in gradients if g is not None],
            lambda: [tf.zeros_like(g) for g in gradients if g is not None],
        )
        left = iter(safe if isinstance(safe, list) else [safe])
        gradients = [None if g is None else next(left) for g in gradients]
        return Balanced(losses, gram, has_gram, finite, weights, state, gradients, observed)


class _Stacks:
    """The tasks' gradients per source as one matrix [tasks that reach it, parameters]."""

    def __init__(
        self,
        per_task: list[Gradients],
        rows: Callable[[Gradients], Gradients] | None = None,
        groups: tuple[int, ...] = (),
    ):
        if rows is not None:
            per_task = [rows(gradients) for gradients in per_task]
        self.tasks = len(per_task)
        self.groups = groups or (0,) * len(per_task[0])
        self.reached: list[tuple[int, ...]] = []
        self.flat: list[tf.Tensor | None] = []
        self._like: Gradients = []
        for gradients in zip(*per_task):
            reached = tuple(k for k, g in enumerate(gradients) if g is not None)
            found = [gradients[k] for k in reached]
            self.reached.append(reached)
            self._like.append(found[0] if found else None)
            self.flat.append(tf.stack([tf.reshape(g, [-1]) for g in found]) if found else None)

    def sum_over_replicas(self) -> None:
        summed = iter(sum_over_replicas([f for f in self.flat if f is not None]))
        self.flat = [None if f is None else next(summed) for f in self.flat]

    def gram(self) -> tf.Tensor:
        """Inner products [groups, K, K], float32, over what at least two tasks reach."""
        grams = [tf.zeros([self.tasks] * 2) for _ in range(max(self.groups) + 1)]
        for flat, reached, group in zip(self.flat, self.reached, self.groups):
            if flat is not None and len(reached) > 1:
                flat = tf.cast(flat, tf.float32)
                grams[group] += _spread(tf.matmul(flat, flat, transpose_b=True), reached, self.tasks)
        return tf.stack(grams)

    def squares(self, grams: tf.Tensor) -> tf.Tensor:
        """Squared norms [K] of the tasks' gradients over all sources."""
        squares = tf.unstack(tf.reduce_sum(tf.linalg.diag_part(grams), axis=0))
        for flat, reached in zip(self.flat, self.reached):
            if flat is not None and len(reached) == 1:
                squares[reached[0]] += 2.0 * tf.nn.l2_loss(tf.cast(flat, tf.float32))
        return tf.stack(squares)

    def leave_out(self, tasks: tf.Tensor) -> None:
        """Sets the gradients of the marked [K] tasks to 0, which a weight of 0 would not do to a NaN."""
        flats = [f for f in self.flat if f is not None]
        reached = [r for f, r in zip(self.flat, self.reached) if f is not None]

        def without() -> list[tf.Tensor]:
            marks = [tf.gather(tasks, r)[:, tf.newaxis] for r in reached]
            return [tf.where(mark, tf.zeros_like(f), f) for mark, f in zip(marks, flats)]

        kept = tf.cond(tf.reduce_any(tasks), without, lambda: flats)
        left = iter(kept if isinstance(kept, list) else [kept])
        self.flat = [None if f is None else next(left) for f in self.flat]

    def combine(self, weights: Weights) -> Gradients:
        """Σ_k w_k g_k per source: shared weights where two or more tasks reach it, own weights elsewhere."""
        combined: Gradients = []
        for flat, reached, like, group in zip(self.flat, self.reached, self._like, self.groups):
            if flat is None:
                combined.append(None)
                continue
            used = weights.own
            if len(reached) > 1:
                used = weights.shared[group] if weights.shared.shape.rank == 2 else weights.shared
            chosen = tf.cast(tf.gather(used, reached), flat.dtype)[tf.newaxis]
            combined.append(tf.reshape(tf.matmul(chosen, flat), tf.shape(like)))
        return combined


def _gram_at_cut(per_task: list[Gradients]) -> tf.Tensor:
    return _sum_groups(_Stacks(per_task).gram())


def _sum_groups(grams: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(grams, axis=0)


def _spread(gram: tf.Tensor, reached: tuple[int, ...], tasks: int) -> tf.Tensor:
    """Places the products of some tasks in the matrix of all of them."""
    if len(reached) == tasks:
        return gram
    places = tf.one_hot(reached, tasks)
    return tf.matmul(places, tf.matmul(gram, places), transpose_a=True)


def _mask_gram(gram: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
    """Zero products for tasks that are left out; [..., K, K]."""
    return tf.where(finite[:, tf.newaxis] & finite[tf.newaxis, :], gram, 0.0)


def _masked(keep: tf.Tensor, gradient: Gradient | None) -> Gradient | None:
    return None if gradient is None else tf.where(keep, gradient, tf.zeros_like(gradient))


def _square(gradients: Gradients) -> tf.Tensor:
    """Half the squared norm of all gradients together, float32: not finite if any of them is not."""
    return tf.add_n([tf.nn.l2_loss(tf.cast(g, tf.float32)) for g in gradients if g is not None])


def _sum_over_replicas(gradients: Gradients) -> Gradients:
    summed = iter(sum_over_replicas([g for g in gradients if g is not None]))
    return [None if g is None else next(summed) for g in gradients]


def _dense(gradients: Sequence[Gradient | tf.IndexedSlices | None]) -> Gradients:
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def _sums(first: Gradients, second: Gradients | None) -> Gradients:
    if second is None:
        return first
    return [b if a is None else a if b is None else a + b for a, b in zip(first, second)]


def _packed(*found) -> tuple:
    """The results of a step without its Nones, which branches cannot return."""
    *rest, gradients, observed = found
    return (*rest, {i: g for i, g in enumerate(gradients) if g is not None}, observed)


def _unpacked(found: tuple, sources: int) -> tuple:
    *rest, gradients, observed = found
    return (*rest, [gradients.get(i) for i in range(sources)], observed)
