import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from components.offline_ab.config import ArmConfig
from components.offline_ab.rows import ScoredRows
from components.offline_ab.sample_ratio import sample_ratio
from models.section import UserError
from tests.benchmarks.evidence_worlds import scored_rows


def with_arms(by, seed=0, share=0.5, users=2000):
    rows = scored_rows(users=users, rows_per_user=4)
    rng = np.random.default_rng(seed)
    ids = np.arange(len(rows)) if by == "rows" else np.unique(getattr(rows, by), return_inverse=True)[1]
    arms = pa.array(np.where(rng.random(ids.max() + 1) < share, "a", "b")[ids]).dictionary_encode()
    return ScoredRows(rows.users, rows.requests, rows.labels, rows.scores, arms=arms)


@pytest.mark.parametrize("by", ["users", "rows"])
def test_units_are_users_where_each_has_one_arm(by):
    rows = with_arms(by)
    found = sample_ratio(rows, ArmConfig(column="arm"))
    assert found.units == by
    counts = [a.units for a in found.arms]
    assert sum(counts) == (2000 if by == "users" else len(rows))
    statistic, p_value = stats.chisquare(counts)
    assert (found.statistic, found.p_value) == (pytest.approx(statistic), pytest.approx(p_value))
    assert found.passed


def test_a_wrong_split_is_found_and_a_planned_one_is_not():
    rows = with_arms("users", share=0.3)
    assert not sample_ratio(rows, ArmConfig(column="arm")).passed
    found = sample_ratio(rows, ArmConfig(column="arm", shares={"a": 3, "b": 7}))
    assert found.passed and [a.expected_share for a in found.arms] == [0.3, 0.7]


def test_an_arm_without_traffic_counts():
    found = sample_ratio(with_arms("users"), ArmConfig(column="arm", shares={"a": 1, "b": 1, "c": 1}))
    assert [a.arm for a in found.arms] == ["a", "b", "c"] and found.arms[2].units == 0
    assert not found.passed


def test_false_alarms_are_as_rare_as_the_limit_says():
    p_values = [
        sample_ratio(with_arms("users", seed, users=100), ArmConfig(column="arm")).p_value for seed in range(200)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p_values) < 0.05) < 0.12


def test_unknown_and_missing_arms_are_named():
    rows = with_arms("users")
    with pytest.raises(UserError, match="found arm 'b' besides a, c"):
        sample_ratio(rows, ArmConfig(column="arm", shares={"a": 1, "c": 1}))
    with pytest.raises(UserError, match="no row has a value in column 'arm'"):
        sample_ratio(scored_rows(users=10), ArmConfig(column="arm"))
