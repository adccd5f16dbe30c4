import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.metrics.bootstrap import poisson_weights
from models.tasks import Output
from pipeline.sweep.findings import Replicates, pareto, recommend, resample

CTR, CTCVR = Output("ctr", "click", None), Output("ctcvr", "purchase", None)
GOALS = (CTR, CTCVR)


def data(rows=1500, users=150, seed=0):
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    logit = rng.normal(0, 1, rows) + rng.normal(0, 0.7, users)[user]
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    purchase = click & (rng.random(rows) < 0.4)
    columns = {"@user": user, "click": click.astype(np.int8), "purchase": purchase.astype(np.int8)}
    return columns, logit, rng


def scorer(logit, rng, noise):
    noisy = 1 / (1 + np.exp(-(logit + rng.normal(0, noise, len(logit)))))
    return {"pctr": noisy.astype(np.float32), "pctcvr": np.round(0.4 * noisy, 2).astype(np.float32)}


def weighted_auc(y, score, weight):
    """By pairs: ties count half."""
    positive, negative = y == 1, y == 0
    wins = (score[positive][:, None] > score[negative]) + 0.5 * (score[positive][:, None] == score[negative])
    pairs = weight[positive][:, None] * weight[negative]
    return (wins * pairs).sum() / pairs.sum()


def test_means_and_deviations_over_the_seeds():
    columns, logit, rng = data()
    scores = [[scorer(logit, rng, 0.5) for _ in range(3)], [scorer(logit, rng, 1.0) for _ in range(3)]]
    found = resample(GOALS, columns, scores, 20)
    for p, o in itertools.product(range(2), range(2)):
        aucs = [roc_auc_score(columns[GOALS[o].label], s[GOALS[o].name]) for s in scores[p]]
        assert found.mean[p, o] == pytest.approx(np.mean(aucs), abs=1e-12)
        assert found.deviation[p, o] == pytest.approx(np.std(aucs, ddof=1), abs=1e-12)
    np.testing.assert_allclose(found.of_seeds, np.sqrt(np.mean(found.deviation**2, axis=0)))


def test_differences_are_those_of_an_exact_bootstrap_of_the_users():
    columns, logit, rng = data(rows=600, users=80)
    # One seed: no noise is added for the seeds.
    scores = [[scorer(logit, rng, 0.3)], [scorer(logit, rng, 1.5)]]
    replicates = 200
    found = resample((CTCVR,), columns, scores, replicates)
    users = np.unique(columns["@user"])
    weights = poisson_weights(users.astype(np.uint64), replicates, 0)[np.searchsorted(users, columns["@user"])]
    exact = np.array(
        [
            [weighted_auc(columns["purchase"], s[0]["pctcvr"], weights[:, r].astype(float)) for s in scores]
            for r in range(replicates)
        ]
    )
    expected = exact[:, 0] - exact[:, 1]
    ours = found.drawn[:, 0, 0] - found.drawn[:, 1, 0]
    # The expansion is of first order: its error is small beside the spread.
    assert np.sqrt(np.mean((ours - expected) ** 2)) < 0.1 * expected.std()
    interval = found.difference(0, 1, 0)
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(ours, [0.025, 0.975]))


def test_intervals_hold_the_spread_of_the_seeds():
    columns, logit, rng = data(rows=4000, users=2000)
    apart = [[scorer(logit, rng, noise) for noise in (0.1, 0.6)] for _ in range(30)]
    found = resample((CTR,), columns, apart, 2000)
    alone = resample((CTR,), columns, [seeds[:1] for seeds in apart[:2]], 2000)
    drawn = found.drawn[:, 0, 0] - found.drawn[:, 1, 0]
    users_only = alone.drawn[:, 0, 0] - alone.drawn[:, 1, 0]
    # Two points, two seeds each: twice the variance of a mean over two seeds.
    added = found.of_seeds[0] ** 2
    assert drawn.var() == pytest.approx(added, rel=0.15) and users_only.var() < 0.1 * added


def test_a_model_of_one_task_has_no_figures_for_the_others():
    columns, logit, rng = data()
    found = resample(GOALS, columns, [[scorer(logit, rng, 0.5)], [{"pctr": scorer(logit, rng, 0.5)["pctr"]}]], 10)
    assert np.isfinite(found.mean[1, 0]) and np.isnan(found.mean[1, 1]) and np.isnan(found.drawn[:, 1, 1]).all()
    assert np.isfinite(found.drawn[:, 0]).all() and np.isfinite(found.drawn[:, 1, 0]).all()


def test_the_front_by_its_definition():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 6, (60, 3)).astype(float)
    values[5, 1] = np.nan
    expected = []
    for i, a in enumerate(values):
        others = [b for j, b in enumerate(values) if j != i and not np.isnan(b).any()]
        beaten = any((b >= a).all() and (b > a).any() for b in others)
        expected.append(not np.isnan(a).any() and not beaten)
    assert pareto(values).tolist() == expected and 0 < sum(expected) < 60


def replicates(mean, deviation, rng, draws=400):
    """Replicates whose centre is the estimate."""
    mean = np.asarray(mean, float)
    return Replicates(mean, np.full(mean.shape, np.nan), mean + deviation * rng.standard_normal((draws, *mean.shape)),
                      np.full(mean.shape[1], np.nan))  # fmt: skip


def test_a_point_that_is_better_is_recommended():
    rng = np.random.default_rng(0)
    found = replicates([[0.70, 0.70], [0.70, 0.71], [0.71, 0.72], [0.72, 0.65]], 0.0005, rng)
    made = recommend(found, [0], [0, 1, 2, 3], tolerance=0.003)
    assert (made.point, made.reference) == (2, 0) and set(made.qualified) == {1, 2}
    assert [d.value for d in made.differences] == pytest.approx([0.01, 0.02])
    assert all(d.low > 0 and d.low < d.value < d.high for d in made.differences)
    assert made.best.argmax() == 2 and made.best.sum() == pytest.approx(1)


def test_where_nothing_is_shown_to_be_better_the_best_tuned_point_is_kept():
    rng = np.random.default_rng(0)
    found = replicates([[0.70, 0.70], [0.71, 0.70], [0.712, 0.70]], 0.005, rng)
    made = recommend(found, [0, 1], [0, 1, 2], tolerance=0.003)
    assert (made.point, made.reference, made.qualified) == (1, 1, ())
    assert made.best.argmax() == 2


def test_what_loses_on_one_task_is_not_recommended():
    rng = np.random.default_rng(0)
    found = replicates([[0.70, 0.70], [0.75, 0.69]], 0.0005, rng)
    assert recommend(found, [0], [0, 1], tolerance=0.003).point == 0
    assert recommend(found, [0], [0, 1], tolerance=0.02).point == 1


def test_among_equal_points_the_reference_is_nearly_always_kept():
    """The point with the best figure must not win by luck: at most 5 % of the time, with 15 points to choose from."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        estimates = 0.7 + 0.002 * rng.standard_normal((16, 2))
        made = recommend(replicates(estimates, 0.002, rng), [0], list(range(16)), tolerance=0.1)
        wrong += made.point != 0
    # 95 % of binomials with 400 trials and a rate of 5 % are at most 28.
    assert wrong <= 28


def test_the_smallest_difference_that_shows_is_a_little_more_than_its_pointwise_half_width():
    rng = np.random.default_rng(2)
    found = replicates(np.full((16, 1), 0.7), 0.001, rng, draws=4000)
    made = recommend(found, [0], list(range(16)), tolerance=0.0)
    half_width = 1.96 * np.sqrt(2) * 0.001
    # Between one comparison's and that of 15 independent ones (Bonferroni: 2.94 deviations).
    assert half_width < made.detectable[0] < 1.05 * 2.94 * np.sqrt(2) * 0.001


def test_the_reference_alone():
    rng = np.random.default_rng(0)
    made = recommend(replicates([[0.7, 0.7]], 0.001, rng), [0], [0], tolerance=0.0)
    assert made.point == made.reference == 0 and made.best.tolist() == [1.0]
