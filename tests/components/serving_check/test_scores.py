import numpy as np
import pytest

from components.serving_check.scores import wrong_scores
from models.tasks import DEFAULT_TASKS, TaskConfig


def scores(**changed):
    pctr, pcvr = np.array([0.1, 1.0, 0.0]), np.array([0.5, 1.0, 1.0])
    return {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr, "order": np.array([1, 0, 2]), **changed}


def test_probabilities_and_their_product_are_right():
    assert wrong_scores(scores(), DEFAULT_TASKS, "rank") == []


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"pcvr": np.array([0.5, np.nan, np.inf])}, "rank: expected finite numbers as pcvr, got nan in 2 of 3 rows"),
        (
            {"pctr": np.array([1.5, 0.5, -1.0])},
            "rank: expected probabilities from 0 to 1 as pctr, got 1.5 in 2 of 3 rows",
        ),
        (
            {"pctcvr": np.array([0.3, 1.0, 0.0])},
            "rank: expected pctcvr to be at most each of its factors, got 0.3 over 0.1 in 1 of 3 rows",
        ),
    ],
)
def test_wrong_scores_are_told(changed, told):
    assert wrong_scores(scores(**changed), DEFAULT_TASKS, "rank") == [told]


def test_a_missing_output_is_told():
    found = scores()
    del found["pctcvr"]
    assert wrong_scores(found, DEFAULT_TASKS, "rank") == ["rank: expected an output 'pctcvr', got order, pctr, pcvr"]


def test_each_product_of_a_longer_chain_is_held_against_all_steps_before():
    tasks = (*DEFAULT_TASKS, TaskConfig(name="keep", label="kept", joint="kept"))
    longer = scores(pkeep=np.array([0.9, 0.5, 0.5]), pkept=np.array([0.04, 0.6, 0.0]))
    assert wrong_scores(longer, tasks, "predict") == [
        "predict: expected pkept to be at most each of its factors, got 0.6 over 0.5 in 1 of 3 rows"
    ]
