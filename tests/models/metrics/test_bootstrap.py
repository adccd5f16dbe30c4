import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from models.metrics import Statistic, auc_rows, hash_ids, log_loss, pointwise_rows, poisson_weights, replicate
from tests.models.metrics.conftest import sample


def test_weights_are_poisson_and_independent():
    weights = poisson_weights(hash_ids([f"u{i}" for i in range(20_000)]), 12, seed=0).astype(float)
    observed = np.bincount(weights.astype(int).ravel(), minlength=6)[:6]
    expected = weights.size * stats.poisson.pmf(np.arange(6), 1)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    correlation = np.corrcoef(weights.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(weights))
    neighbours = np.corrcoef(weights[:-1, 0], weights[1:, 0])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(len(weights))


def test_a_users_weights_do_not_depend_on_the_other_users():
    hashes = hash_ids(["a", "b", "c", "d"])
    whole = poisson_weights(hashes, 50, seed=3)
    np.testing.assert_array_equal(poisson_weights(hashes[2:3], 50, seed=3)[0], whole[2])
    np.testing.assert_array_equal(poisson_weights(hashes, 20, seed=3), whole[:, :20])
    assert (poisson_weights(hashes, 50, seed=4) != whole).any()


def test_hashes_are_those_of_every_process():
    assert hash_ids([b"u1"])[0] != hash_ids([b"u2"])[0]
    assert hash_ids(["u1"]).dtype == np.uint64
    # SipHash as pandas documents it: pinned, because weights on workers of other versions must agree.
    assert hash_ids(["u1"]).tolist() == hash_ids(np.array(["u1", "x"], object))[:1].tolist()


def columns_by_user(matrix, users, n):
    return np.stack([np.bincount(users, column, n) for column in matrix.T], axis=1)


def test_replicates_are_the_metric_under_the_weights():
    rows = sample(2000, users=300)
    hashes = hash_ids([f"u{i}" for i in range(300)])
    table = columns_by_user(pointwise_rows(rows["labels"], rows["scores"]), rows["users"], 300)
    statistic = Statistic(np.arange(300), table, lambda s: log_loss(s)[..., None])
    (found,) = replicate([statistic], hashes, 6, seed=1)
    weights = poisson_weights(hashes, 6, seed=1)
    for r in range(6):
        expected = reference.log_loss(
            rows["labels"], np.clip(rows["scores"], 1e-7, 1 - 1e-7), sample_weight=weights[rows["users"], r]
        )
        assert found[r, 0] == pytest.approx(expected, abs=1e-9)


def test_expanded_auc_has_the_spread_of_the_exact_one():
    rows = sample(4000, users=500, tied=False)
    y, p, users = rows["labels"], rows["scores"], rows["users"]
    hashes = hash_ids([f"u{i}" for i in range(500)])
    value, terms = auc_rows(y, p, np.ones(len(y)))
    table = columns_by_user(terms, users, 500)

    def area(s):
        return (s[..., 0] / s[..., 1] + s[..., 2] / s[..., 3] - value)[..., None]

    (found,) = replicate([Statistic(np.arange(500), table, area)], hashes, 300, seed=1)
    weights = poisson_weights(hashes, 300, seed=1)
    exact = np.array([reference.roc_auc_score(y, p, sample_weight=weights[users, r]) for r in range(300)])
    assert found[:, 0].std() == pytest.approx(exact.std(), rel=0.02)
    assert np.corrcoef(found[:, 0], exact)[0, 1] > 0.999


def test_workers_totals_add_up():
    rows = sample(1000, users=100)
    hashes = hash_ids([f"u{i}" for i in range(100)])
    table = columns_by_user(pointwise_rows(rows["labels"], rows["scores"]), rows["users"], 100)

    def totals(units):
        (found,) = replicate([Statistic(np.arange(len(units)), table[units], lambda s: s)], hashes[units], 40, 0)
        return found

    whole = totals(np.arange(100))
    np.testing.assert_allclose(totals(np.arange(37)) + totals(np.arange(37, 100)), whole, rtol=1e-12)


def test_statistics_of_some_users_take_their_weights():
    hashes = hash_ids([f"u{i}" for i in range(50)])
    some = np.array([3, 17, 41])
    (found,) = replicate([Statistic(some, np.eye(3), lambda s: s)], hashes, 30, 0)
    np.testing.assert_array_equal(found, poisson_weights(hashes, 30, 0)[some].T)
