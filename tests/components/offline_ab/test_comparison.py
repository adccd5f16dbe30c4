import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as reference

from components.offline_ab.comparison import compare_metrics, holm, smallest_detectable
from components.offline_ab.config import EvidenceConfig
from components.offline_ab.rows import ScoredRows
from models.metrics import poisson_weights
from models.tasks import DEFAULT_TASKS, outputs
from tests.benchmarks.evidence_worlds import scored_rows

OUTPUTS = outputs(DEFAULT_TASKS)
CONFIG = EvidenceConfig(replicates=200)


def results_of(rows, slices=(), config=CONFIG):
    found, _ = compare_metrics(rows, OUTPUTS, slices, config)
    return {(m.task, m.metric, tuple(m.slice.values())): m for m in found}


@pytest.fixture(scope="module")
def rows():
    return scored_rows(noise=(0.9, 0.5), price=True)


@pytest.fixture(scope="module")
def results(rows):
    return results_of(rows, [("device",)])


def gauc(rows, side):
    """By comparing every pair of a user's rows; and the number of users with one class."""
    aucs, weights, left_out = [], [], 0
    for user in np.unique(rows.users):
        of = rows.users == user
        y, p = rows.labels["click"][of], rows.scores[side]["pctr"][of].astype(float)
        pairs = p[y == 1][:, None] - p[y == 0][None, :]
        if not pairs.size:
            left_out += 1
            continue
        aucs.append((np.sign(pairs).mean() + 1) / 2)
        weights.append(of.sum())
    return np.average(aucs, weights=weights), left_out


def test_values_are_those_of_independent_references(rows, results):
    click, purchase = rows.labels["click"], rows.labels["purchase"]
    for side in rows.sides:
        p = rows.scores[side]["pctr"].astype(float)
        expected = {
            "auc": reference.roc_auc_score(click, p),
            "pr_auc": reference.average_precision_score(click, p),
            "log_loss": reference.log_loss(click, p),
            "calibration": p.sum() / click.sum(),
            "gauc": gauc(rows, side)[0],
        }
        for metric, value in expected.items():
            found = getattr(results["ctr", metric, ()], side)
            assert found.value == pytest.approx(value, abs=1e-9), (side, metric)
        of = (click == 1) & (np.asarray(rows.slices["device"].indices) == 0)
        device = rows.slices["device"].dictionary[0].as_py()
        found = getattr(results["cvr", "auc", (device,)], side)
        expected = reference.roc_auc_score(purchase[of], rows.scores[side]["pcvr"][of])
        assert found.value == pytest.approx(expected, abs=1e-9)
    assert results["ctr", "gauc", ()].groups_left_out == gauc(rows, "baseline")[1]


def test_difference_and_its_interval_are_paired(rows, results):
    """The interval is that of exact recomputation under the same weights, for metrics that are expanded and not."""
    ids, user = np.unique(rows.users, return_inverse=True)
    weights = poisson_weights(ids, 200, CONFIG.seed)[user].astype(float)
    click = rows.labels["click"]
    for metric, function in (
        ("auc", reference.roc_auc_score),
        ("pr_auc", reference.average_precision_score),
        ("log_loss", reference.log_loss),
    ):
        differences = [
            function(click, rows.scores["candidate"]["pctr"].astype(float), sample_weight=w)
            - function(click, rows.scores["baseline"]["pctr"].astype(float), sample_weight=w)
            for w in weights.T
        ]
        found = results["ctr", metric, ()]
        assert found.standard_error == pytest.approx(np.std(differences, ddof=1), rel=0.05)
        assert found.difference.value == pytest.approx(found.candidate.value - found.baseline.value)
        half = norm.ppf(0.975) * found.standard_error
        assert found.difference.low == pytest.approx(found.difference.value - half)
        assert found.difference.high == pytest.approx(found.difference.value + half)
        # Both sides see the same rows: their difference is far steadier than if each had rows of its own.
        halves = [side.high - side.value for side in (found.baseline, found.candidate)]
        assert half < 0.8 * np.hypot(*halves)


def test_better_scorer_is_found_better(results):
    assert results["ctr", "auc", ()].difference.low > 0
    assert results["ctr", "log_loss", ()].difference.high < 0
    assert results["ctr", "auc", ()].p_value < 0.01
    assert results["ctr", "ndcg@10", ()].difference.value > 0


def test_same_scores_have_no_difference_at_all(rows):
    same = ScoredRows(
        rows.users, rows.requests, rows.labels,
        {"baseline": rows.scores["candidate"], "candidate": rows.scores["candidate"]},
    )  # fmt: skip
    for found in results_of(same).values():
        assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0), found.metric
        assert found.p_value == 1


def test_one_side_alone_has_values_and_no_difference(rows):
    alone = ScoredRows(rows.users, rows.requests, rows.labels, {"candidate": rows.scores["candidate"]})
    found = results_of(alone)["ctr", "auc", ()]
    assert found.baseline is None and found.difference is None and found.gain is None
    assert found.candidate.low < found.candidate.value < found.candidate.high


def test_results_do_not_depend_on_the_order_of_rows(rows):
    order = np.random.default_rng(1).permutation(len(rows))
    mixed = ScoredRows.from_tables([rows.to_table().take(order[:1000]), rows.to_table().take(order[1000:])])
    first, second = results_of(rows, [("device",)]), results_of(mixed, [("device",)])
    assert first.keys() == second.keys()
    for key, a in first.items():
        b = second[key]
        assert a.support == b.support
        assert a.difference.value == pytest.approx(b.difference.value, abs=1e-9), key
        assert a.standard_error == pytest.approx(b.standard_error, abs=1e-9), key


def test_slices_below_the_minimum_have_values_and_no_interval(rows):
    found = results_of(rows, [("device",)], EvidenceConfig(replicates=50, minimum_positives=600))
    assert found["ctr", "auc", ()].enough
    small = found["ctr", "auc", ("d0",)]
    assert not small.enough and small.difference.low is None and small.p_value is None
    assert small.difference.value is not None


def test_weights_count_rows_that_often():
    rows = scored_rows(users=120, rows_per_user=4)
    twice = np.arange(len(rows)) % 3 == 0
    weighted = ScoredRows(rows.users, rows.requests, rows.labels, rows.scores, weights=1.0 + twice)
    table = rows.to_table()
    repeated = ScoredRows.from_tables([table, table.filter(twice)])
    config = EvidenceConfig(replicates=50, minimum_positives=1)
    a, b = results_of(weighted, config=config), results_of(repeated, config=config)
    for metric in ("auc", "pr_auc", "gauc", "log_loss", "normalised_entropy", "calibration"):
        assert a["ctr", metric, ()].difference.value == pytest.approx(b["ctr", metric, ()].difference.value, abs=1e-9)
        assert a["ctr", metric, ()].standard_error == pytest.approx(b["ctr", metric, ()].standard_error, rel=1e-6)


def test_rows_without_a_label_count_for_no_task_that_needs_it():
    rows = scored_rows(users=200)
    labels = {"click": rows.labels["click"].copy(), "purchase": rows.labels["purchase"].copy()}
    labels["purchase"][::2] = np.nan
    partly = ScoredRows(rows.users, rows.requests, labels, rows.scores)
    found = results_of(partly, config=EvidenceConfig(replicates=50, minimum_positives=1))
    assert found["ctr", "auc", ()].support.rows == len(rows)
    assert found["ctcvr", "auc", ()].support.rows == len(rows) // 2
    clicked = (labels["click"] == 1) & ~np.isnan(labels["purchase"])
    assert found["cvr", "auc", ()].support.rows == clicked.sum()


def test_holm_is_the_step_down_of_the_paper():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling.
    assert holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_adjusted_p_values_are_holms_over_the_slices(rows):
    found = results_of(rows, [("device",)])
    family = [m for m in found.values() if (m.task, m.metric) == ("ctr", "auc") and m.slice]
    assert len(family) == 2
    low, high = sorted(family, key=lambda m: m.p_value)
    assert low.p_adjusted == pytest.approx(min(1, 2 * low.p_value))
    assert high.p_adjusted == pytest.approx(max(low.p_adjusted, high.p_value))
    assert found["ctr", "auc", ()].p_adjusted is None


def test_smallest_detectable_difference_has_the_power_that_it_claims():
    error, confidence = 0.02, 0.95
    true = smallest_detectable(error, confidence)
    z = norm.ppf(0.975)
    power = norm.sf(z - true / error) + norm.cdf(-z - true / error)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_slices_of_two_columns_and_of_missing_values():
    import pyarrow as pa

    rows = scored_rows(users=50, rows_per_user=4)
    first = pa.array(["a", "b", None, "b"] * 50).dictionary_encode()
    second = pa.array(["x", "y", "x", "x"] * 50).dictionary_encode()
    of = ScoredRows(rows.users, rows.requests, rows.labels, rows.scores, slices={"one": first, "two": second})
    cut, more = of.of_slice(("one", "two"), np.arange(len(rows)), 10)
    assert {tuple(values.values()): len(found) for values, found in cut} == {
        ("a", "x"): 50, ("b", "y"): 50, ("b", "x"): 50,
    }  # fmt: skip
    assert more == 0
    assert of.of_slice(("one", "two"), np.arange(len(rows)), 2)[1] == 1
