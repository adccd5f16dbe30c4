"""Task gradients: row-sparse results against a dense float64 reference, and who gets whose gradient."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import Balancer, Needs, Static, Weights
from models.task_gradients import balanced_gradients, combine, gram_matrix


class Fixed(Balancer):
    """Gives the weights of its configuration, as a method does that needs the Gram matrix."""

    needs: ClassVar[Needs] = Needs.GRAM
    name: Literal["fixed"] = "fixed"
    shared: tuple[float, ...]
    own: tuple[float, ...]

    def weigh(self, losses, gram, state, *, step, seed):
        return Weights(tf.constant(self.shared), tf.constant(self.own)), state


IDS = np.array([3, 0, 3, 3, 1, 0])  # repeated ids, whose gradients must be summed before any product
TARGETS = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0], [3.0, 0.2], [-2.0, 1.5], [0.1, 0.1]])


@pytest.fixture
def problem():
    """Two tasks over a table [5, 3], a shared matrix, and a vector per task: L_k = mean((x W v_k - t_k)^2)."""
    rng = np.random.default_rng(0)
    values = {
        "table": rng.normal(size=(5, 3)),
        "w": rng.normal(size=(3, 3)),
        "v0": rng.normal(size=3),
        "v1": rng.normal(size=3),
    }
    return values


def reference(values):
    """Per task, dense float64 gradients of table, w, v0 and v1, by hand."""
    x = values["table"][IDS]
    gradients = []
    for k in range(2):
        v = values[f"v{k}"]
        residual = (x @ values["w"] @ v - TARGETS[:, k]) * 2 / len(IDS)
        table = np.zeros_like(values["table"])
        np.add.at(table, IDS, np.outer(residual, values["w"] @ v))
        own = (x @ values["w"]).T @ residual
        gradients.append(
            {
                "table": table,
                "w": np.outer(x.T @ residual, v),
                "v0": own if k == 0 else None,
                "v1": own if k == 1 else None,
            }
        )
    return gradients


def run(values, balancer, step=0, probe_every=0, penalty=None):
    table = tf.Variable(values["table"], dtype=tf.float32)
    unique, positions = tf.unique(tf.constant(IDS))
    rows = tf.gather(table, unique)
    w, v0, v1 = (tf.Variable(values[n], dtype=tf.float32) for n in ("w", "v0", "v1"))

    def forward():
        x = tf.gather(rows, positions)
        losses = [
            tf.reduce_mean((tf.linalg.matvec(x @ w, v) - tf.constant(TARGETS[:, k], tf.float32)) ** 2)
            for k, v in enumerate((v0, v1))
        ]
        return losses, penalty(w) if penalty else None

    @tf.function
    def go():
        return balanced_gradients(
            forward,
            [rows, w, v0, v1],
            balancer,
            balancer.initial_state(("a", "b")),
            step=tf.constant(step, tf.int64),
            seed=tf.zeros([2], tf.int32),
            probe_every=probe_every,
        )

    return go(), unique.numpy()


def as_table(rows, unique):
    dense = np.zeros((5, 3))
    dense[unique] = rows
    return dense


def test_gram_matrix_is_that_of_the_dense_gradients_over_what_two_tasks_reach(problem):
    balanced, _ = run(problem, Fixed(shared=(1.0, 1.0), own=(1.0, 1.0)))
    flat = [np.concatenate([g["table"].ravel(), g["w"].ravel()]) for g in reference(problem)]
    np.testing.assert_allclose(balanced.gram, np.array(flat) @ np.array(flat).T, rtol=1e-5)


def test_shared_parameters_get_shared_weights_and_own_parameters_own_ones(problem):
    balanced, unique = run(problem, Fixed(shared=(0.3, 2.0), own=(5.0, 7.0)))
    first, second = reference(problem)
    rows, w, v0, v1 = balanced.gradients
    np.testing.assert_allclose(
        as_table(rows, unique), 0.3 * first["table"] + 2.0 * second["table"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(w, 0.3 * first["w"] + 2.0 * second["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(v0, 5.0 * first["v0"], rtol=1e-4)
    np.testing.assert_allclose(v1, 7.0 * second["v1"], rtol=1e-4)


def test_rows_that_the_batch_does_not_look_up_have_no_gradient(problem):
    balanced, unique = run(problem, Static(name="static"))
    assert sorted(unique) == [0, 1, 3] and balanced.gradients[0].shape == [3, 3]


def test_one_backward_pass_of_the_weighted_loss_equals_the_combined_task_gradients(problem):
    static, _ = run(problem, Static(name="static", weights={"a": 0.3, "b": 2.0}))
    exact, _ = run(problem, Fixed(shared=(0.3, 2.0), own=(0.3, 2.0)))
    for a, b in zip(static.gradients, exact.gradients):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("step", "seen"), [(0, True), (1, False), (3, True)])
def test_probe_finds_the_same_gram_matrix_at_every_nth_step(problem, step, seen):
    exact, _ = run(problem, Fixed(shared=(1.0, 1.0), own=(1.0, 1.0)))
    probed, _ = run(problem, Static(name="static"), step=step, probe_every=3)
    assert bool(probed.has_gram) is seen
    np.testing.assert_allclose(probed.gram, exact.gram if seen else np.zeros((2, 2)), rtol=1e-5)


@pytest.mark.parametrize("balancer", [Static(name="static"), Fixed(shared=(1.0, 1.0), own=(1.0, 1.0))])
def test_penalties_are_added_outside_the_balancing(problem, balancer):
    plain, _ = run(problem, balancer)
    penalised, _ = run(problem, balancer, penalty=lambda w: 0.5 * tf.nn.l2_loss(w))
    np.testing.assert_allclose(penalised.gradients[1] - plain.gradients[1], 0.5 * problem["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(penalised.gram, plain.gram)


def test_gradients_that_reach_one_task_only_are_not_in_the_gram_matrix():
    a, b = tf.constant([1.0, 2.0]), tf.constant([3.0])
    assert np.array_equal(gram_matrix([[a, None], [None, b]]), np.zeros((2, 2)))


def test_a_source_that_no_loss_reaches_has_no_gradient():
    weights = Weights(tf.ones([2]), tf.ones([2]))
    assert combine([[None], [None]], weights) == [None]
