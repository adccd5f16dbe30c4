import functools
import itertools
import math
import operator

import numpy as np
import pytest
from sklearn import metrics as reference

from models.metrics import (
    expected_value_at_k,
    gauc,
    group_sums,
    map_at_k,
    ndcg_at_k,
    recall_at_k,
    value_at_k,
)
from tests.models.metrics.conftest import sample, shards


def state(columns, weighted=False, **options):
    return group_sums(
        columns["users"], columns["labels"], columns["scores"], columns["weights"] if weighted else None, **options
    )


@pytest.mark.parametrize("cut", [1, 2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_is_the_weighted_mean_of_the_users_aucs(rows, cut, weighted):
    found = gauc(functools.reduce(operator.add, (state(s, weighted) for s in shards(rows, cut))))
    values, weights, left_out = [], [], 0
    for user in np.unique(rows["users"]):
        of = (rows["users"] == user) & ((rows["weights"] > 0) | (not weighted))
        y, w = rows["labels"][of], rows["weights"][of] if weighted else np.ones(of.sum())
        if not 0 < y.sum() < len(y):
            left_out += len(y) > 0
            continue
        values.append(reference.roc_auc_score(y, rows["scores"][of], sample_weight=w))
        weights.append(w.sum())
    assert found.mean == pytest.approx(np.average(values, weights=weights), abs=1e-9)
    assert found.left_out == left_out


def test_users_with_one_class_are_left_out_and_ties_count_half():
    users = np.array([1, 1, 2, 2, 3, 3])
    labels = np.array([1.0, 0, 1, 1, 1, 0])
    scores = np.array([0.4, 0.4, 0.9, 0.1, 0.2, 0.1])
    found = gauc(group_sums(users, labels, scores))
    assert found.left_out == 1
    assert found.group.tolist() == [1, 3] and found.value.tolist() == [0.5, 1.0]
    assert math.isnan(gauc(group_sums(users[2:4], labels[2:4], scores[2:4])).mean)


def orders(y, p):
    """All orders of the rows by score, tied rows in each of their orders."""
    runs = [np.flatnonzero(p == s) for s in sorted(set(p), reverse=True)]
    for orders_of_runs in itertools.product(*(itertools.permutations(run) for run in runs)):
        yield y[list(itertools.chain(*orders_of_runs))]


def plain_map(y, k):
    hits = [y[: i + 1].mean() for i in range(min(k, len(y))) if y[i]]
    return sum(hits) / min(k, y.sum())


def plain_recall(y, k):
    return y[:k].sum() / y.sum()


def plain_ndcg(y, k):
    def dcg(gains):
        return sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))

    return dcg(y) / dcg(sorted(y, reverse=True))


@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("metric, plain", [(ndcg_at_k, plain_ndcg), (map_at_k, plain_map), (recall_at_k, plain_recall)])
def test_metrics_at_k_are_means_over_all_orders_of_tied_rows(metric, plain, k):
    rng = np.random.default_rng(k)
    groups, labels, scores, expected, left_out = [], [], [], [], 0
    for group in range(60):
        n = rng.integers(1, 7)
        y, p = (rng.random(n) < 0.4).astype(float), rng.choice([0.1, 0.2, 0.3], n)
        groups += [group] * n
        labels, scores = [*labels, *y], [*scores, *p]
        if y.sum():
            expected.append(np.mean([plain(o, k) for o in orders(y, p)]))
        else:
            left_out += 1
    columns = {"users": np.array(groups), "labels": np.array(labels), "scores": np.array(scores)}
    for cut in (1, 4):
        found = metric(functools.reduce(operator.add, map(state, shards(columns, cut))), k)
        assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)
        assert found.left_out == left_out


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ndcg_is_scikit_learns_where_scores_are_tied(k):
    rows = sample(400, users=20)
    values = [
        reference.ndcg_score([rows["labels"][of]], [rows["scores"][of]], k=k)
        for user in range(20)
        if rows["labels"][of := rows["users"] == user].sum()
    ]
    assert ndcg_at_k(state(rows), k).mean == pytest.approx(np.mean(values), abs=1e-9)


def test_requests_count_by_their_mean_weight():
    users, labels = np.array([1, 1, 2, 2]), np.array([1.0, 0, 0, 1])
    scores, weights = np.array([0.9, 0.1, 0.9, 0.1]), np.array([3.0, 1.0, 1.0, 1.0])
    found = recall_at_k(group_sums(users, labels, scores, weights), 1)
    assert found.weight.tolist() == [2.0, 1.0]
    assert found.mean == pytest.approx((2 * 1 + 1 * 0) / 3)


@pytest.mark.parametrize("k", [1, 2, 100])
def test_value_at_k_is_that_of_the_rows_that_would_be_shown(k):
    rows = sample(300, users=30, tied=False)
    value = rows["labels"] * rows["prices"]
    shown = total = expected = 0.0
    for user in range(30):
        of = rows["users"] == user
        order = np.argsort(-(rows["scores"] * rows["prices"])[of])[:k]
        shown += len(order)
        total += value[of][order].sum()
        expected += (rows["scores"] * rows["prices"])[of][order].sum()
    found = state(rows, values=value, prices=rows["prices"])
    assert value_at_k(found, k).mean == pytest.approx(1000 * total / shown, rel=1e-9)
    assert expected_value_at_k(found, k).mean == pytest.approx(1000 * expected / shown, rel=1e-9)


def test_rows_without_a_label_do_not_count():
    rows = sample(200)
    rows["labels"][::2] = np.nan
    kept = {name: values[1::2] for name, values in rows.items()}
    for metric in (gauc, lambda s: ndcg_at_k(s, 3), lambda s: map_at_k(s, 3)):
        assert metric(state(rows)).mean == pytest.approx(metric(state(kept)).mean, abs=1e-12)


def test_no_rows_at_all():
    nothing = group_sums(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    for found in (gauc(nothing), ndcg_at_k(nothing, 3), map_at_k(nothing, 3), value_at_k(nothing, 3)):
        assert math.isnan(found.mean) and found.left_out == 0


def test_prices_must_be_there():
    with pytest.raises(ValueError, match="prices: expected a number of at least 0, got -1.0 in row 1"):
        group_sums(np.zeros(2, int), np.zeros(2), np.zeros(2), prices=np.array([1.0, -1.0]))
