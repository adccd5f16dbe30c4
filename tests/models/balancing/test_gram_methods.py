"""What methods on the Gram matrix have in common, and theorems that tie one to another."""

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import IMTLG, MGDA, PELTR, AlignedMTL, CAGrad, GradVac, NashMTL, PCGrad, Run

ALL = {
    "mgda": MGDA(name="mgda"),
    "mgda, l2": MGDA(name="mgda", normalization="l2"),
    "pe_ltr": PELTR(name="pe_ltr"),
    "pe_ltr, exact": PELTR(name="pe_ltr", solver="exact"),
    "pcgrad": PCGrad(name="pcgrad"),
    "gradvac": GradVac(name="gradvac", per="model"),
    "cagrad": CAGrad(name="cagrad"),
    "nash_mtl": NashMTL(name="nash_mtl"),
    "imtl_g": IMTLG(name="imtl_g"),
    "aligned_mtl": AlignedMTL(name="aligned_mtl"),
}
CHANCE = ("pcgrad", "gradvac")
UNSTABLE = ("of extreme lengths", "rank deficient")
"""Where rounding of the Gram matrix itself may decide a weight."""
every = pytest.mark.parametrize("row", ALL)
some_tasks = pytest.mark.parametrize("tasks", [2, 3, 6, 8])


@every
@some_tasks
def test_weights_are_finite_whatever_the_gradients(row, tasks, gradients, rounded, weigh):
    state = None
    for step, (kind, g) in enumerate(gradients(tasks).items()):
        for scale in (1e-10, 1.0, 1e15) if kind != "of extreme lengths" else (1.0,):
            (shared, own), state = weigh(ALL[row], np.ones(tasks), rounded(g * scale), state, step)
            assert np.isfinite(shared).all(), (kind, scale)
            assert np.array_equal(own, np.ones(tasks))
            assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("row", [row for row in ALL if row not in CHANCE])  # where tasks meet in random order
@some_tasks
def test_tasks_can_change_places(row, tasks, gradients, rounded, weigh):
    order = np.random.default_rng(tasks).permutation(tasks)[::-1]
    for kind, g in gradients(tasks).items():
        if kind in UNSTABLE:
            continue
        matrix = rounded(g)
        straight = weigh(ALL[row], np.ones(tasks), matrix)[0].shared.numpy()
        changed = weigh(ALL[row], np.ones(tasks), matrix[np.ix_(order, order)])[0].shared.numpy()
        np.testing.assert_allclose(straight[order], changed, rtol=1e-4, atol=1e-9 + 1e-5 * np.abs(straight).max())


@every
@some_tasks
def test_weights_do_not_depend_on_the_scale_of_all_gradients(row, tasks, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        if kind in UNSTABLE:
            continue
        matrix = rounded(g)
        expected = weigh(ALL[row], np.ones(tasks), matrix)[0].shared.numpy()
        # Powers of 2, near 1e-10 and 1e15 for gradients, leave the digits of the matrix alone.
        for scale in (2.0**-66, 2.0**98):
            w = weigh(ALL[row], np.ones(tasks), matrix * scale)[0].shared.numpy()
            np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("row", ["nash_mtl", "imtl_g", "mgda, l2"])
@some_tasks
def test_blind_to_the_length_of_a_single_gradient(row, tasks, gradients, weigh):
    g = gradients(tasks)["random"]
    lengths = 10.0 ** np.linspace(-3, 4, tasks)
    before = weigh(ALL[row], np.ones(tasks), g @ g.T)[0].shared.numpy()
    after = weigh(ALL[row], np.ones(tasks), (g * lengths[:, None]) @ (g * lengths[:, None]).T)[0].shared.numpy()
    if row != "mgda, l2":  # whose weights, not whose update, are the same
        after = after * lengths
    np.testing.assert_allclose(after / np.abs(after).sum(), before / np.abs(before).sum(), atol=1e-5)


@pytest.mark.parametrize("row", ["mgda", "pe_ltr, exact", "nash_mtl"])
@some_tasks
def test_no_task_is_worsened(row, tasks, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        matrix = rounded(g)
        w = weigh(ALL[row], np.ones(tasks), matrix)[0].shared.numpy().astype(np.float64)
        norms = np.sqrt(np.diag(matrix))
        assert (matrix @ w >= -1e-5 * norms * (w @ norms)).all(), kind


@pytest.mark.parametrize("row", CHANCE)
def test_of_two_tasks_neither_is_worsened_by_surgery(row, gradients, rounded, weigh):
    for kind, g in gradients(2).items():
        matrix = rounded(g)
        w = weigh(ALL[row], np.ones(2), matrix)[0].shared.numpy().astype(np.float64)
        norms = np.sqrt(np.diag(matrix))
        assert (matrix @ w >= -1e-5 * norms * (np.abs(w) @ norms)).all(), kind


@pytest.mark.parametrize("row", CHANCE)
@some_tasks
def test_without_conflict_surgery_is_the_sum(row, tasks, gradients, rounded, weigh):
    for kind in ("agreeing", "equal", "parallel", "zero"):
        w = weigh(ALL[row], np.ones(tasks), rounded(gradients(tasks)[kind]))[0].shared
        np.testing.assert_allclose(w, np.ones(tasks), rtol=1e-6)


@some_tasks
def test_gradvac_with_targets_of_0_is_pcgrad(tasks, gradients, rounded, weigh):
    balancer, state = GradVac(name="gradvac", per="model", beta=0.0), None
    for step in range(3):
        for kind, g in gradients(tasks).items():
            if kind in UNSTABLE:
                continue
            matrix = rounded(g)
            (w, _), state = weigh(balancer, np.ones(tasks), matrix, state, step)
            expected = weigh(PCGrad(name="pcgrad"), np.ones(tasks), matrix, step=step)[0].shared.numpy()
            np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=kind)
            assert not state["target"].numpy().any()


@pytest.mark.parametrize("solver", ["pecsolver", "exact"])
def test_pe_ltr_without_floors_is_mgda_for_two_tasks(solver, gradients, rounded, weigh):
    for kind, g in gradients(2).items():
        matrix = rounded(g)
        if kind == "equal":
            expected = [0.5, 0.5]
        else:
            expected = weigh(MGDA(name="mgda"), np.ones(2), matrix)[0].shared
        w = weigh(PELTR(name="pe_ltr", solver=solver), np.ones(2), matrix)[0].shared
        np.testing.assert_allclose(w, expected, atol=1e-6, err_msg=kind)


@some_tasks
def test_exact_pe_ltr_without_floors_is_mgda(tasks, gradients, rounded, weigh):
    for kind, g in gradients(tasks).items():
        pair = [weigh(ALL[r], np.ones(tasks), rounded(g))[0].shared for r in ("pe_ltr, exact", "mgda")]
        np.testing.assert_allclose(*pair, atol=1e-6, err_msg=kind)


@some_tasks
def test_cagrad_without_room_is_the_average(tasks, gradients, rounded, weigh):
    for g in gradients(tasks).values():
        w = weigh(CAGrad(name="cagrad", c=0.0), np.ones(tasks), rounded(g))[0].shared
        np.testing.assert_allclose(w, np.full(tasks, 1 / tasks), rtol=1e-6)


@pytest.mark.parametrize("row", ["mgda", "pe_ltr", "pe_ltr, exact", "imtl_g", "nash_mtl", "cagrad", "aligned_mtl"])
@some_tasks
def test_orthogonal_gradients_of_equal_length_weigh_the_same(row, tasks, weigh):
    w = weigh(ALL[row], np.ones(tasks), 3.0 * np.eye(tasks))[0].shared.numpy()
    expected = {
        "nash_mtl": tasks**0.25,  # G / ‖G‖ is 1/√K on its diagonal
        "cagrad": (1 + 0.5) / tasks,
        "aligned_mtl": 1.0,
    }.get(row, 1 / tasks)
    np.testing.assert_allclose(w, np.full(tasks, expected), rtol=1e-5)


@every
def test_one_step_is_one_graph_for_all_steps(row, gradients, rounded):
    traces = []

    @tf.function
    def graph(matrix, state, step):
        traces.append(1)
        seed = tf.stack([0, tf.cast(step, tf.int32)])
        return ALL[row].weigh(tf.ones([3]), matrix, state, step=step, seed=seed)

    state = ALL[row].initial_state(Run(("a", "b", "c")))
    for step, kind in enumerate(("random", "conflicting", "zero", "opposite", "random")):
        matrix = tf.constant(rounded(gradients(3)[kind]), tf.float32)
        (shared, _), state = graph(matrix, state, tf.constant(step, tf.int64))
        assert np.isfinite(shared).all()
    assert len(traces) == 1
