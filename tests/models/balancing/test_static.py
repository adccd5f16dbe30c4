"""Fixed weights."""

import numpy as np
import pytest

from models.balancing import Run, Static

GIVEN = Static(name="static", weights={"a": 2.0})


def test_weights_are_those_given_and_1_elsewhere(weigh):
    weights, _ = weigh(GIVEN, [0.5, 0.5, 0.5])
    assert np.array_equal(weights.shared, [2.0, 1.0, 1.0])


def test_weights_of_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match=r"weights: expected names of tasks \(ctr, cvr\), got 'a'"):
        GIVEN.initial_state(Run(("ctr", "cvr")))


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights.a: expected a number >= 0, got -1.0"):
        Static(name="static", weights={"a": -1.0})
