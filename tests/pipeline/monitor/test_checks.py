import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from components.offline_ab.config import EvidenceConfig
from components.offline_ab.document import Estimate, Scorer
from components.offline_ab.gather import gather_evidence
from models.tasks import DEFAULT_TASKS
from pipeline.monitor.checks import alerts, calibration_checks, drift_checks, metric_checks, missing_slices
from pipeline.monitor.config import MonitorConfig

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from evidence_worlds import scored_rows

LIMITS = MonitorConfig(not_worse_by={"auc": 0.01, "log_loss": 0.02}, calibration=0.1)


def judged(seed, noise=0.6, bias=0.0, **options):
    rows = scored_rows(seed=seed, users=1500, noise=(noise, noise), bias=(bias, bias), **options)
    rows = type(rows)(**{**vars(rows), "scores": {"candidate": rows.scores["candidate"]}})
    return gather_evidence(
        rows, DEFAULT_TASKS, [["device"]], EvidenceConfig(replicates=100), baseline=None,
        candidate=Scorer(name="version 1", source="/m"), source="/x",
    )  # fmt: skip


@pytest.fixture(scope="module")
def then():
    return judged(0)


def value(evidence, metric, **where):
    return next(r.candidate for r in evidence.metrics if (r.task, r.metric, r.slice) == ("ctr", metric, where))


def by_name(checks):
    return {c.name: c for c in checks}


def test_a_change_has_the_variance_of_both_days(then):
    now = judged(1)
    checks = by_name(metric_checks(then, now, LIMITS))
    a, b = (
        next(r.candidate for r in e.metrics if (r.task, r.metric, r.slice) == ("ctr", "auc", {})) for e in (then, now)
    )
    check = checks["ctr auc"]
    assert check.change.value == pytest.approx(b.value - a.value)
    half = np.hypot(a.high - a.low, b.high - b.low) / 2
    assert [check.change.low, check.change.high] == pytest.approx(
        [check.change.value - half, check.change.value + half]
    )
    # Of log loss less is better.
    gain = value(then, "log_loss").value - value(now, "log_loss").value
    assert checks["ctr log_loss"].change.value == pytest.approx(gain)


def test_slices_are_corrected_for_their_number(then):
    checks = by_name(metric_checks(then, judged(1), LIMITS))
    earlier = value(then, "auc", device="d0")
    check = checks["ctr auc where device = d0"]
    errors = [(e.high - e.low) / (2 * norm.ppf(0.975)) for e in (earlier, check.now)]
    # Two devices: 97.5 % each for 95 % together.
    assert check.change.high - check.change.value == pytest.approx(norm.ppf(1 - 0.05 / 4) * np.hypot(*errors))


def test_another_day_like_the_one_before_raises_no_alert(then):
    for seed in range(1, 6):
        now = judged(seed)
        assert alerts([*metric_checks(then, now, LIMITS), *calibration_checks(then, now, LIMITS)]) == []


def test_a_model_that_got_worse_raises_one(then):
    found = alerts(metric_checks(then, judged(7, noise=2.5), LIMITS))
    assert {"ctr auc", "ctr log_loss"} <= {c.name for c in found}
    assert all(c.change.high < -c.limit for c in found)


def test_predictions_that_are_too_high_raise_one(then):
    checks = by_name(calibration_checks(then, judged(3, bias=0.5), LIMITS))
    assert checks["ctr calibration"].state == "alert" and checks["ctr calibration"].change.value > 0.1
    # The prediction of a purchase after a click has no bias.
    assert checks["cvr calibration"].state == "fine"


def test_too_little_data_is_unknown_and_raises_none(then):
    rows = scored_rows(seed=1, users=40, noise=(3.0, 3.0))
    rows = type(rows)(**{**vars(rows), "scores": {"candidate": rows.scores["candidate"]}})
    now = gather_evidence(rows, DEFAULT_TASKS, [], EvidenceConfig(replicates=50), baseline=None,
                          candidate=Scorer(name="v", source="/m"), source="/x")  # fmt: skip
    checks = [*metric_checks(then, now, LIMITS), *calibration_checks(then, now, LIMITS)]
    assert checks and {c.state for c in checks} == {"unknown"}


def test_slices_that_are_new_are_counted(then):
    now = judged(1, devices=5)
    assert missing_slices(then, now) == 3 and missing_slices(then, judged(1)) == 0
    assert {c.slice.get("device") for c in metric_checks(then, now, LIMITS)} == {None, "d0", "d1"}


def test_drift_is_sorted_by_its_share_of_the_limit():
    checks = drift_checks({"a": 0.02, "b": 0.3, "c": 0.05, "d": 0.9}, {"a": 0.01, "b": 0.6, "c": 0.05})
    assert [(c.task, c.state) for c in checks] == [("a", "alert"), ("c", "fine"), ("b", "fine"), ("d", "fine")]
    assert checks[0].now == Estimate(value=0.02)
