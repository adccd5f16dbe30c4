"""DWA against its equation over slices of the losses' history."""

import numpy as np
import pytest

from models.balancing import DWA, Run


def reference(losses, period, temperature):
    """Weights [steps, K] from the paper: every period's weights come from the means of the two before it."""
    weights = np.ones_like(losses)
    tasks = losses.shape[1]
    for step in range(len(losses)):
        t = step // period
        if t < 2:
            continue
        last = losses[(t - 1) * period : t * period].mean(axis=0)
        before = losses[(t - 2) * period : (t - 1) * period].mean(axis=0)
        powers = np.exp(last / before / temperature)
        weights[step] = tasks * powers / powers.sum()
    return weights


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("period, temperature", [(1, 2.0), (3, 2.0), (5, 0.3)])
def test_follows_the_paper(tasks, period, temperature, drive):
    losses = np.random.default_rng(tasks).uniform(0.05, 1.0, [23, tasks])
    balancer = DWA(name="dwa", period_steps=period, temperature=temperature)
    weights = drive(balancer, losses)
    np.testing.assert_allclose(weights, reference(losses, period, temperature), rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=1), tasks, rtol=1e-6)


def test_is_the_plain_sum_for_two_periods_then_favours_the_task_that_falls_more_slowly(drive):
    losses = np.stack([0.5 ** np.arange(8.0), 0.9 ** np.arange(8.0)], axis=1)
    weights = drive(DWA(name="dwa", period_steps=2), losses)
    np.testing.assert_allclose(weights[:4], 1.0, rtol=1e-6)
    assert (weights[4:, 1] > weights[4:, 0]).all()


def test_an_infinite_temperature_is_equal_weighting(drive):
    losses = np.random.default_rng(0).uniform(0.05, 1.0, [12, 3])
    weights = drive(DWA(name="dwa", period_steps=1, temperature=1e8), losses)
    np.testing.assert_allclose(weights, 1.0, atol=1e-6)


def test_losses_of_0_count_as_unchanged(drive):
    weights = drive(DWA(name="dwa", period_steps=1), np.array([[0.0, 0.4], [0.3, 0.4], [0.3, 0.4], [0.3, 0.4]]))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "steps, steps_per_epoch, period",
    [(4000, 1000, 1000), (3999, 1000, 100), (1000, 1000, 100), (500, 1000, 50), (5, 5, 1), (12, 3, 3)],
)
def test_the_period_left_out_is_an_epoch_or_short_enough_to_act_in_one(steps, steps_per_epoch, period):
    run = Run(("a", "b"), steps, steps_per_epoch)
    assert DWA(name="dwa").initial_state(run)["period_steps"] == period
    assert DWA(name="dwa", period_steps=7).initial_state(run)["period_steps"] == 7


def test_acts_within_a_single_epoch(drive):
    losses = np.stack([0.9 ** np.arange(40.0), np.ones(40)], axis=1)
    weights = drive(DWA(name="dwa"), losses, run=Run(("a", "b"), 40, 40))
    np.testing.assert_allclose(weights, reference(losses, 4, 2.0), rtol=1e-5)
    assert weights[-1, 1] > 1.0
