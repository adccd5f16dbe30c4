"""HTW's schedule of the main task and LBTW's weights of the others."""

import numpy as np
import pytest

from models.balancing import HTW, Run

TASKS = ("click", "cart", "purchase")


def reference(losses, main, steps, share, alpha, epoch=None):
    """Weights [steps, K] from the papers, with t counted from 1."""
    weights = np.empty_like(losses)
    for step, row in enumerate(losses):
        start = 0 if epoch is None else step // epoch * epoch
        weights[step] = (row / losses[start]) ** alpha
        weights[step, main] = min(1.0, (step + 1) / (share * steps))
    return weights


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("epoch", [None, 7])
@pytest.mark.parametrize("main", [0, 1, 2])
def test_follows_the_papers(alpha, epoch, main, drive):
    losses = np.random.default_rng(main).uniform(0.05, 1.0, [30, 3])
    balancer = HTW(
        name="htw",
        main_task=TASKS[main],
        warm_up=0.4,
        alpha=alpha,
        reference="first_step" if epoch is None else "epoch",
    )
    weights = drive(balancer, losses, run=Run(TASKS, 30, epoch or 30))
    np.testing.assert_allclose(weights, reference(losses, main, 30, 0.4, alpha, epoch), rtol=1e-5)


def test_the_last_task_is_the_main_one_unless_named(drive):
    losses = np.full([3, 3], 0.5)
    np.testing.assert_allclose(drive(HTW(name="htw"), losses, run=Run(TASKS, 100, 100))[0], [1.0, 1.0, 0.1])
    named = HTW(name="htw", main_task="click")
    np.testing.assert_allclose(drive(named, losses, run=Run(TASKS, 100, 100))[0], [0.1, 1.0, 1.0])


def test_the_main_task_starts_small_rises_in_a_line_and_stays_at_1(drive):
    weights = drive(HTW(name="htw"), np.full([60, 2], 0.5), run=Run(("a", "b"), 400, 100))[:, 1]
    np.testing.assert_allclose(weights[:40], np.arange(1, 41) / 40, rtol=1e-6)
    assert np.array_equal(weights[40:], np.ones(20))


@pytest.mark.parametrize("share, steps", [(0.0, 100), (0.1, 1), (1e-9, 1000)])
def test_without_steps_to_warm_up_the_main_task_starts_at_1(share, steps, drive):
    weights = drive(HTW(name="htw", warm_up=share), np.full([2, 2], 0.5), run=Run(("a", "b"), steps, steps))
    assert np.array_equal(weights, np.ones([2, 2]))


def test_an_auxiliary_task_without_a_first_loss_has_weight_1(drive):
    weights = drive(HTW(name="htw", warm_up=0.0), np.array([[0.0, 0.3], [0.2, 0.1]]))
    assert np.array_equal(weights, np.ones([2, 2]))


def test_an_unknown_main_task_is_refused():
    message = r"main_task: expected the name of a task \(click, cart, purchase\), got 'buy'"
    with pytest.raises(ValueError, match=message):
        HTW(name="htw", main_task="buy").check_tasks(TASKS)
    with pytest.raises(ValueError, match=message):
        HTW(name="htw", main_task="buy").initial_state(Run(TASKS))
