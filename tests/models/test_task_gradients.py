"""Task gradients: row-sparse results against a dense float64 reference, and who gets whose gradient."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import DWA, MGDA, Balancer, GradNorm, GramBalancer, Needs, Run, Static, Uncertainty, Weights
from models.task_gradients import Embedded, Network, Options, Upper, balanced_gradients, initial_state

# Three tasks. Table A is read by an id and by a list of ids, table B by another id; ids repeat within and across
# them. Row 0 is padding.
USER = np.array([3, 1, 3, 3, 1, 5])
HISTORY = np.array([[3, 4, 0], [2, 2, 2], [0, 0, 0], [5, 3, 1], [4, 0, 0], [1, 4, 4]])
SELLER = np.array([1, 1, 4, 0, 4, 1])
TABLE_ROWS = {"A": 700, "B": 500}
TARGETS = np.random.default_rng(1).normal(size=(6, 3))
SHARED, OWN = (0.3, 2.0, -0.7), (5.0, 7.0, 0.1)

# What the losses read: w and b are below the cut, all else above it.
DENSE = ("w", "b", "pair", "gate_1", "gate_2", "v0", "v1", "v2", "unread")
REACHED = {
    **dict.fromkeys(("A", "B", "w", "b"), (0, 1, 2)),
    **{"pair": (1, 2), "gate_1": (1,), "gate_2": (2,), "v0": (0,), "v1": (1,), "v2": (2,), "unread": ()},
}
LAYERS = {"A": 0, "B": 1, "w": 2, "b": 2, "pair": 3} | {n: 4 for n in ("gate_1", "gate_2", "v0", "v1", "v2", "unread")}


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    shapes = {"A": (TABLE_ROWS["A"], 3), "B": (TABLE_ROWS["B"], 2), "w": (8, 4), "b": (4,), "pair": (4,)}
    shapes |= {"gate_1": (8,), "gate_2": (8,), "v0": (4,), "v1": (4,), "v2": (4,), "unread": (2,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def pooled(user, history, seller):
    mask = tf.constant(HISTORY > 0, user.dtype)[:, :, None]
    mean = tf.reduce_sum(history * mask, axis=1) / tf.maximum(tf.reduce_sum(mask, axis=1), 1.0)
    return tf.concat([user, mean, seller], axis=1)


def losses_above(h, x, v):
    targets = tf.constant(TARGETS, h.dtype)
    both = tf.linalg.matvec(h, v["pair"])
    first = tf.linalg.matvec(h, v["v0"])
    second = tf.linalg.matvec(h, v["v1"]) * tf.sigmoid(tf.linalg.matvec(x, v["gate_1"])) + both
    third = tf.linalg.matvec(h, v["v2"]) + both * tf.linalg.matvec(x, v["gate_2"])
    return [tf.reduce_mean((p - targets[:, k]) ** 2) for k, p in enumerate((first, second, third))]


def penalty_on(v):
    return 0.1 * tf.nn.l2_loss(v["w"]) + 0.5 * tf.nn.l2_loss(v["v0"])


def dense_float64(values):
    """The same losses with products of one-hot matrices and whole tables in the place of look-ups, in float64.

    Returns:
      losses [3]; per task the gradient of each variable; per task the gradients of the two tensors of the cut.
    """
    v = {name: tf.constant(value, tf.float64) for name, value in values.items()}

    def read(table, ids):
        return tf.tensordot(tf.one_hot(ids, TABLE_ROWS[table], dtype=tf.float64), v[table], 1)

    with tf.GradientTape(persistent=True) as tape:
        for t in v.values():
            tape.watch(t)
        x = pooled(read("A", USER), read("A", HISTORY), read("B", SELLER))
        h = tf.tanh(x @ v["w"] + v["b"])
        losses = losses_above(h, x, v)
    gradients = [{n: tape.gradient(loss, t) for n, t in v.items()} for loss in losses]
    at_cut = tf.constant(h.numpy()), tf.constant(x.numpy())
    with tf.GradientTape(persistent=True) as above:
        above.watch(at_cut)
        again = losses_above(*at_cut, v)
    cuts = [above.gradient(loss, at_cut, unconnected_gradients="zero") for loss in again]
    numpy = [
        {n: None if g is None else tf.convert_to_tensor(g).numpy() for n, g in found.items()} for found in gradients
    ]
    return np.array(losses), numpy, [np.concatenate([g.numpy().ravel() for g in found]) for found in cuts]


def products(gradients, names):
    """Gram matrix of the tasks' gradients over these variables, those that one task alone reaches left out."""
    names = [n for n in names if len(REACHED[n]) > 1]
    flat = [
        np.concatenate([(np.zeros(1) if g[n] is None else g[n].ravel()) for n in names if g[n] is not None] or [[0.0]])
        for g in gradients
    ]
    return np.array(
        [
            [sum(np.vdot(a[n], b[n]) for n in names if a[n] is not None and b[n] is not None) for b in gradients]
            for a in gradients
        ]
    ).reshape(len(flat), len(flat))


def weighted(gradients, name, shared=SHARED, own=OWN):
    """Σ_k w_k g_k of one variable."""
    weights = shared if len(REACHED[name]) > 1 else own
    return sum(weights[k] * gradients[k][name] for k in REACHED[name])


class Fixed(GramBalancer):
    """Gives the weights of its configuration, scaled by the step, and keeps the Gram matrix that it was shown."""

    name: Literal["fixed"] = "fixed"
    shared: tuple = SHARED
    own: tuple[float, ...] = OWN
    layers: bool = False
    grows: bool = False

    @property
    def per_layer(self):
        return self.layers

    def initial_state(self, run):
        k = len(run.tasks)
        return {"gram": tf.zeros([run.groups, k, k] if self.layers else [k, k]), "calls": tf.constant(0.0)}

    def weigh(self, losses, gram, state, *, step, seed):
        factor = 1.0 + tf.cast(step, tf.float32) if self.grows else 1.0
        weights = Weights(tf.constant(self.shared) * factor, tf.constant(self.own) * factor)
        return weights, {"gram": gram, "calls": state["calls"] + 1.0}


class Loud(Balancer):
    """Counts its calls; reads losses only."""

    needs: ClassVar[Needs] = Needs.LOSSES
    name: Literal["loud"] = "loud"

    def initial_state(self, run):
        return {"calls": tf.constant(0.0)}

    def weigh(self, losses, gram, state, *, step, seed):
        return Weights(tf.constant(SHARED), tf.constant(SHARED)), {"calls": state["calls"] + 1.0}


class Problem:
    """The losses of above as `balanced_gradients` takes them, in float32."""

    def __init__(self, values, *, penalty=False, tasks=(0, 1, 2), poison=None, how="loss"):
        self.tables = {n: tf.Variable(values[n], dtype=tf.float32) for n in ("A", "B")}
        self.dense = {n: tf.Variable(values[n], dtype=tf.float32) for n in DENSE}
        self.penalty = penalty
        self.tasks = tasks
        self.poison = poison
        self.zero = tf.Variable(0.0)
        self.how = how
        self.unique = {}

    def step(self, balancer, state=None, step=0, **options):
        options.setdefault("groups", tuple(LAYERS[n] for n in ("A", "B", *DENSE)))
        options = Options(**options)
        groups = max(options.groups) + 1
        if state is None:
            state = initial_state(balancer, Run(tuple("abc"[: len(self.tasks)]), groups=groups))
        found = tf.function(lambda at: self._step(balancer, state, at, options))(tf.constant(step, tf.int64))
        self.unique = {n: u.numpy() for n, u in found[1].items()}
        return found[0]

    def _step(self, balancer, state, step, options):
        ids = {"A": tf.concat([USER, HISTORY.ravel()], 0), "B": tf.constant(SELLER)}
        unique, embedded = {}, []
        for name, table in self.tables.items():
            unique[name], positions = tf.unique(ids[name])
            rows = tf.gather(table, unique[name])
            embedded.append(Embedded(tf.gather(rows, positions), positions, tf.shape(unique[name])[0]))

        def lower():
            user, history = tf.split(embedded[0].values, [len(USER), HISTORY.size])
            x = pooled(user, tf.reshape(history, [*HISTORY.shape, 3]), embedded[1].values)
            return tf.tanh(x @ self.dense["w"] + self.dense["b"]), x

        def upper(h, x):
            losses = losses_above(h, x, self.dense)
            if self.poison is not None:
                # The square root's gradient at 0 is infinite. A variable, because graphs drop products with a 0.
                nothing = self.zero * tf.reduce_sum(h)
                bad = {"loss": np.inf * (nothing + 1.0), "gradient": tf.sqrt(nothing), "nan": np.nan * (nothing + 1.0)}
                losses[self.poison] += bad[self.how]
            penalty = penalty_on(self.dense) if self.penalty else None
            return Upper([losses[k] for k in self.tasks], penalty, {"h": tf.reduce_mean(h)})

        found = balanced_gradients(
            Network(lower, upper),
            embedded,
            list(self.dense.values()),
            balancer,
            state,
            step=step,
            seed=tf.stack([tf.constant(0), tf.cast(step, tf.int32)]),
            options=options,
        )
        return found, unique

    def by_name(self, balanced):
        """Gradients by variable; those of tables brought to the whole table."""
        found = dict(zip(("A", "B", *DENSE), balanced.gradients))
        for name, unique in self.unique.items():
            rows = np.zeros((TABLE_ROWS[name], self.tables[name].shape[1]))
            rows[unique] = found[name]
            found[name] = rows
        return found


def assert_close(found, expected, rtol=2e-5):
    """Equal to rounding in float32, beside the largest entry."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * max(np.abs(expected).max(), 1e-3))


LEVELS = ("parameters", "representation")


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_combined_gradients_are_those_of_the_dense_float64_reference(values, level, xla):
    problem = Problem(values)
    balanced = problem.step(Fixed(level=level), xla=xla)
    losses, gradients, _ = dense_float64(values)
    assert_close(balanced.losses, losses)
    found = problem.by_name(balanced)
    for name in ("A", "B", *DENSE[:-1]):
        assert_close(found[name], weighted(gradients, name))
    assert found["unread"] is None
    assert balanced.finite.numpy().all() and bool(balanced.has_gram)


def test_which_parameters_are_shared_is_read_off_the_graph(values):
    # The reference says by itself whom each variable's gradient belongs to.
    _, gradients, _ = dense_float64(values)
    for name, reached in REACHED.items():
        assert tuple(k for k in range(3) if gradients[k][name] is not None) == reached
    # With tasks 0 and 1 alone, what tasks 1 and 2 share belongs to task 1.
    problem = Problem(values, tasks=(0, 1))
    found = problem.by_name(problem.step(Fixed(shared=SHARED[:2], own=OWN[:2])))
    assert_close(found["pair"], OWN[1] * gradients[1]["pair"])
    assert_close(found["w"], SHARED[0] * gradients[0]["w"] + SHARED[1] * gradients[1]["w"])
    assert found["gate_2"] is None and found["v2"] is None


def test_the_gram_matrix_is_that_of_the_dense_gradients_over_what_two_tasks_reach(values):
    balanced = Problem(values).step(Fixed())
    _, gradients, _ = dense_float64(values)
    expected = products(gradients, REACHED)
    assert_close(balanced.gram, expected)
    assert_close(balanced.state["gram"], expected)


def test_layers_have_gram_matrices_and_weights_of_their_own(values):
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(5, 3)).astype(np.float32)
    problem = Problem(values)
    balanced = problem.step(Fixed(shared=tuple(map(tuple, shared.tolist())), layers=True))
    _, gradients, _ = dense_float64(values)
    for layer in range(5):
        assert_close(balanced.state["gram"][layer], products(gradients, [n for n in LAYERS if LAYERS[n] == layer]))
    found = problem.by_name(balanced)
    for name in ("A", "B", *DENSE[:-1]):
        assert_close(found[name], weighted(gradients, name, shared=shared[LAYERS[name]]))
    assert_close(balanced.gram, products(gradients, REACHED))
    assert_close(balanced.weights.shared, shared.mean(axis=0))


@pytest.mark.parametrize("xla", [False, True])
def test_at_level_representation_the_gram_matrix_is_that_of_the_gradients_at_the_cut(values, xla):
    balanced = Problem(values).step(Fixed(level="representation"), xla=xla)
    _, _, cuts = dense_float64(values)
    # Both tensors of the cut are read by two tasks or more.
    assert_close(balanced.gram, np.array(cuts) @ np.array(cuts).T)
    assert_close(balanced.state["gram"], balanced.gram)


def test_mgda_at_level_representation_is_mgda_ub(values):
    problem = Problem(values, tasks=(0, 1))
    balanced = problem.step(MGDA(name="mgda", level="representation"))
    _, gradients, cuts = dense_float64(values)
    # What task 1 alone reads of the input is not shared by the two.
    first, second = (c[: 6 * 4] for c in cuts[:2])
    alpha = np.clip((second - first) @ second / ((first - second) @ (first - second)), 0.0, 1.0)
    assert 0.05 < alpha < 0.95
    assert_close(balanced.weights.shared, [alpha, 1.0 - alpha], rtol=1e-4)
    assert_close(balanced.weights.own, [1.0, 1.0])
    found = problem.by_name(balanced)
    for name in ("A", "B", "w", "b"):
        assert_close(found[name], alpha * gradients[0][name] + (1 - alpha) * gradients[1][name], rtol=1e-4)


@pytest.mark.parametrize("balancer", [Static(name="static"), Fixed(), Fixed(level="representation")], ids=repr)
@pytest.mark.parametrize("xla", [False, True])
def test_gradients_of_embeddings_are_of_the_looked_up_rows(values, balancer, xla):
    problem = Problem(values)
    balanced = problem.step(balancer, xla=xla)
    assert sorted(problem.unique["A"]) == [0, 1, 2, 3, 4, 5] and sorted(problem.unique["B"]) == [0, 1, 4]
    assert balanced.gradients[0].shape == [6, 3] and balanced.gradients[1].shape == [3, 2]


def tensors_of(function):
    """Shapes of all tensors of a traced function, those of the functions that it calls included."""
    shapes = []
    for graph in [function.graph, *(f.graph for f in function.graph._functions.values() if hasattr(f, "graph"))]:
        shapes += [t.shape for op in graph.get_operations() for t in op.outputs if t.shape.rank]
    return shapes


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_of_a_tables_size_is_made(values, level):
    problem = Problem(values)

    @tf.function
    def go():
        state = initial_state(Fixed(), Run(tuple("abc"), groups=5))
        return problem._step(Fixed(level=level), state, tf.constant(0, tf.int64), Options())[0].gradients[:2]

    shapes = tensors_of(go.get_concrete_function())
    assert len(shapes) > 100
    assert not [s for s in shapes if any(size in s.as_list() for size in TABLE_ROWS.values())]


@pytest.mark.parametrize("xla", [False, True])
def test_one_pass_of_the_weighted_losses_equals_the_combined_task_gradients(values, xla):
    static = Static(name="static", weights={"a": 0.3, "b": 2.0})
    problem = Problem(values)
    balanced = problem.step(static, xla=xla)
    _, gradients, _ = dense_float64(values)
    found = problem.by_name(balanced)
    for name in ("A", "B", *DENSE[:-1]):
        # A method that weights losses weights a task's own parameters as well.
        assert_close(found[name], weighted(gradients, name, (0.3, 2.0, 1.0), (0.3, 2.0, 1.0)))
    assert not bool(balanced.has_gram) and not balanced.gram.numpy().any()


@pytest.mark.parametrize("balancer", [Static(name="static"), Fixed(), Fixed(level="representation")], ids=repr)
def test_penalties_are_added_outside_the_balancing(values, balancer):
    problem = Problem(values, penalty=True)
    plain, penalised = Problem(values).step(balancer, probe_every=1), problem.step(balancer, probe_every=1)
    added = {n: a - b for n, a, b in zip(("A", "B", *DENSE), penalised.gradients, plain.gradients) if a is not None}
    for name, found in added.items():
        factor = {"w": 0.1, "v0": 0.5}.get(name)
        expected = np.zeros_like(found) if factor is None else factor * values[name]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(penalised.gram, plain.gram, rtol=1e-6)
    np.testing.assert_allclose(penalised.losses, plain.losses, rtol=1e-6)


@pytest.mark.parametrize(("step", "seen"), [(0, True), (1, False), (2, False), (3, True)])
@pytest.mark.parametrize("balancer", [Static(name="static"), Uncertainty(name="uncertainty")], ids=["static", "uw"])
def test_probe_finds_the_exact_gram_matrix_at_every_nth_step(values, balancer, step, seen):
    problem = Problem(values)
    probed = problem.step(balancer, step=step, probe_every=3)
    plain = problem.step(balancer, step=step)
    _, gradients, _ = dense_float64(values)
    assert bool(probed.has_gram) is seen and not bool(plain.has_gram)
    assert_close(probed.gram, products(gradients, REACHED) if seen else np.zeros((3, 3)))
    for a, b in zip(probed.gradients, plain.gradients):
        assert (a is None and b is None) or np.array_equal(a, b)


def test_gradnorm_reads_the_gradients_of_the_last_shared_layer(values):
    balancer = GradNorm(name="gradnorm", alpha=0.0, optimizer="sgd", learning_rate=0.01)
    balanced = Problem(values).step(balancer, last_shared=(DENSE.index("w"),))
    _, gradients, _ = dense_float64(values)
    norms = np.array([np.linalg.norm(g["w"]) for g in gradients])
    norms /= norms.mean()
    moved = 1.0 - 0.01 * norms * np.sign(norms - 1.0)
    assert_close(balanced.state["weights"], moved / moved.mean())


def test_gradnorm_reads_the_gradients_at_the_cut_where_no_layer_is_shared(values):
    balancer = GradNorm(name="gradnorm", alpha=0.0, optimizer="sgd", learning_rate=0.01)
    balanced = Problem(values).step(balancer, last_shared=())
    _, _, cuts = dense_float64(values)
    norms = np.array([np.linalg.norm(c) for c in cuts])
    norms /= norms.mean()
    moved = 1.0 - 0.01 * norms * np.sign(norms - 1.0)
    assert_close(balanced.state["weights"], moved / moved.mean())


@pytest.mark.parametrize("level", LEVELS)
def test_weights_are_held_between_two_gram_matrices(values, level):
    balancer = Fixed(level=level, refresh_every=3, grows=True)
    problem = Problem(values)
    _, gradients, _ = dense_float64(values)
    state = None
    for step in range(7):
        balanced = problem.step(balancer, state, step=step)
        state = balanced.state
        factor = 1.0 + step // 3 * 3
        assert bool(balanced.has_gram) is (step % 3 == 0)
        assert float(state["calls"]) == 1 + step // 3
        assert_close(balanced.weights.shared, factor * np.array(SHARED))
        assert_close(balanced.weights.own, factor * np.array(OWN))
        found = problem.by_name(balanced)
        for name in ("A", "B", *DENSE[:-1]):
            assert_close(found[name], factor * weighted(gradients, name))


def test_weights_per_layer_are_held_as_their_means(values):
    shared = np.random.default_rng(5).normal(size=(5, 3)).astype(np.float32)
    balancer = Fixed(shared=tuple(map(tuple, shared.tolist())), layers=True, refresh_every=2)
    problem = Problem(values)
    first = problem.step(balancer)
    second = problem.step(balancer, first.state, step=1)
    _, gradients, _ = dense_float64(values)
    found = problem.by_name(second)
    for name in ("A", "B", *DENSE[:-1]):
        # One pass has room for one weight per task.
        assert_close(found[name], weighted(gradients, name, shared=shared.mean(axis=0)))
    assert np.array_equal(second.state["held_shared"], shared)


WAYS = {
    "losses": Loud(),
    "representation": Fixed(level="representation"),
    "parameters": Fixed(),
    "representation, held": Fixed(level="representation", refresh_every=2),
    "parameters, held": Fixed(refresh_every=2),
}


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("how", ["loss", "gradient", "nan"])
@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_is_not_finite_is_left_out_and_the_others_train(values, way, how, xla):
    balancer = WAYS[way]
    problem = Problem(values, poison=1, how=how, penalty=True)
    before = initial_state(balancer, Run(tuple("abc"), groups=5))
    before["calls"] = tf.constant(17.0)
    held = "held_shared" in before
    if held:
        before |= {"held_shared": tf.constant(SHARED), "held_own": tf.constant(OWN)}
    balanced = problem.step(balancer, before, step=1 if held else 0, xla=xla)
    assert balanced.finite.numpy().tolist() == [True, False, True]
    for name, value in before.items():
        assert np.array_equal(balanced.state[name], value)
    _, gradients, _ = dense_float64(values)
    gradients[1] = {n: None if g is None else np.zeros_like(g) for n, g in gradients[1].items()}
    found = problem.by_name(balanced)
    for name in ("A", "B", *DENSE[:-1]):
        expected = weighted(gradients, name, SHARED, SHARED if way == "losses" else OWN)
        assert_close(found[name], expected + {"w": 0.1, "v0": 0.5}.get(name, 0.0) * values[name])
    gram = balanced.gram.numpy()
    assert np.isfinite(gram).all() and not gram[1].any() and not gram[:, 1].any()
    if way == "parameters":
        assert_close(gram, products(gradients, REACHED))


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("balancer", [GradNorm(name="gradnorm"), Uncertainty(name="uncertainty"), DWA(name="dwa")])
def test_the_state_of_a_balancer_stays_where_a_task_is_left_out(values, balancer, how):
    problem = Problem(values, poison=2, how=how)
    fine = Problem(values).step(balancer, last_shared=(DENSE.index("w"),))
    balanced = problem.step(balancer, fine.state, step=1, last_shared=(DENSE.index("w"),))
    assert balanced.finite.numpy().tolist() == [True, True, False]
    for name, value in fine.state.items():
        assert np.isfinite(value).all() and np.array_equal(balanced.state[name], value)
    assert all(np.isfinite(g).all() for g in balanced.gradients if g is not None)
    assert np.abs(balanced.gradients[2]).max() > 0


def test_what_the_pass_observed_is_handed_on(values):
    for balancer in (Static(name="static"), Fixed(), Fixed(level="representation")):
        for xla in (False, True):
            observed = Problem(values).step(balancer, xla=xla).observed
            x = dict(values)
            reads = [x["A"][USER], x["A"][HISTORY], x["B"][SELLER]]
            h = np.tanh(pooled(*(tf.constant(r) for r in reads)).numpy() @ x["w"] + x["b"])
            assert_close(observed["h"], h.mean())
