import json

import pytest
from scipy.stats import norm

from components.offline_ab.config import EvidenceConfig, Rule, check_evidence
from components.offline_ab.document import Estimate, MetricResult, Support
from components.offline_ab.rules import judge
from models.section import UserError
from models.tasks import DEFAULT_TASKS


def result(metric="auc", change=0.0, error=0.01, better="higher", where=None, enough=True, task="ctr"):
    half = norm.ppf(0.975) * error
    return MetricResult(
        task=task,
        metric=metric,
        slice=where or {},
        better=better,
        baseline=Estimate(value=0.5),
        candidate=Estimate(value=0.5 + change),
        difference=Estimate(value=change, low=change - half, high=change + half) if enough else Estimate(value=change),
        standard_error=error if enough else None,
        support=Support(rows=1000, users=70, positives=40),
        enough=enough,
    )


def verdict(results, **rule):
    rule = {"task": "ctr", "metric": "auc"} | rule
    return judge(results, EvidenceConfig(rules=(Rule(**rule),)))


@pytest.mark.parametrize(
    "rule, change, error, expected, outcome",
    [
        # A superiority rule passes where the whole interval is above its margin.
        ({"better_by": 0.0}, 0.03, 0.01, "promote", "passed"),
        ({"better_by": 0.0}, 0.01, 0.01, "keep", "undecided"),
        ({"better_by": 0.02}, 0.03, 0.01, "keep", "undecided"),
        ({"better_by": 0.0}, -0.03, 0.01, "keep", "failed"),
        # A non-inferiority rule passes where the whole interval is above the loss that it allows.
        ({"not_worse_by": 0.03}, 0.0, 0.01, "promote", "passed"),
        ({"not_worse_by": 0.03}, -0.02, 0.01, "keep", "undecided"),
        ({"not_worse_by": 0.03}, -0.06, 0.01, "keep", "failed"),
        # With a standard error of 0.01 the smallest detectable difference is 0.028: 0.02 could not be shown.
        ({"not_worse_by": 0.02}, -0.015, 0.01, "not_enough_data", "not_enough_data"),
        # The confidence is the rule's own: 0.02 is 2 standard errors, enough for 95 % and not for 99 %.
        ({"better_by": 0.0}, 0.02, 0.01, "promote", "passed"),
        ({"better_by": 0.0, "confidence": 0.99}, 0.02, 0.01, "keep", "undecided"),
    ],
)
def test_what_an_interval_comes_to(rule, change, error, expected, outcome):
    decision, reasons, (found,) = verdict([result(change=change, error=error)], **rule)
    assert (decision, found.outcome) == (expected, outcome)
    assert found.gain.value == pytest.approx(change)
    half = norm.ppf(0.5 + rule.get("confidence", 0.95) / 2) * error
    assert (found.gain.low, found.gain.high) == (pytest.approx(change - half), pytest.approx(change + half))
    assert reasons == [found.reason] and found.text in found.reason


def test_gains_are_turned_where_lower_is_better():
    loss = result("log_loss", change=-0.03, better="lower")
    decision, _, (found,) = verdict([loss], metric="log_loss", better_by=0.0)
    assert decision == "promote" and found.gain.value == pytest.approx(0.03) and found.gain.low > 0


def test_equal_models_are_not_inferior_and_not_superior():
    same = result(change=0.0, error=0.0)
    assert verdict([same], not_worse_by=0.0)[0] == "promote"
    assert verdict([same], better_by=0.0)[0] == "keep"


def test_all_rules_must_pass():
    results = [result(change=0.05), result("gauc", change=-0.1)]
    rules = (Rule(task="ctr", metric="auc", better_by=0.0), Rule(task="ctr", metric="gauc", not_worse_by=0.03))
    decision, reasons, found = judge(results, EvidenceConfig(rules=rules))
    assert decision == "keep"
    assert [r.outcome for r in found] == ["passed", "failed"]
    assert reasons == [found[1].reason]


def test_a_failed_rule_weighs_more_than_one_without_data():
    results = [result(change=0.0, enough=False), result("gauc", change=-0.1)]
    rules = (Rule(task="ctr", metric="auc", better_by=0.0), Rule(task="ctr", metric="gauc", not_worse_by=0.03))
    decision, reasons, _ = judge(results, EvidenceConfig(rules=rules))
    assert decision == "keep" and len(reasons) == 2
    decision, reasons, _ = judge(results[:1], EvidenceConfig(rules=rules[:1]))
    assert decision == "not_enough_data"
    assert "70 users and 40 positives; expected at least 100 users and 50 positives" in reasons[0]


def test_a_rule_for_each_slice_holds_for_those_with_enough_data():
    results = [
        result(change=0.05),
        result(where={"tab": "a"}, change=0.05),
        result(where={"tab": "b"}, change=-0.2),
        result(where={"tab": "c"}, change=-0.2, enough=False),
        result(where={"tab": "a", "age": "1"}, change=-0.2),
    ]
    decision, _, found = verdict(results, slice={"tab": "*"}, not_worse_by=0.03)
    assert decision == "keep"
    assert [(r.slice, r.outcome) for r in found] == [({"tab": "a"}, "passed"), ({"tab": "b"}, "failed")]
    decision, _, found = verdict(results, slice={"tab": "a"}, not_worse_by=0.03)
    assert decision == "promote" and len(found) == 1
    decision, reasons, found = verdict(results, slice={"age": "*"}, not_worse_by=0.03)
    assert decision == "not_enough_data" and found[0].gain is None
    assert "no slice has 100 users" in reasons[0]


def test_a_metric_at_k_is_that_of_the_configuration():
    assert verdict([result("ndcg@10", change=0.05)], metric="ndcg", better_by=0.0)[0] == "promote"
    assert verdict([result("ndcg@5", change=0.05)], metric="ndcg", better_by=0.0)[0] == "not_enough_data"


def test_no_rules_ask_nothing():
    decision, reasons, found = judge([result(change=-1.0)], EvidenceConfig())
    assert (decision, found) == ("promote", [])
    assert reasons == ["no rules are set under evidence.rules: nothing was asked of the comparison"]


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"metric": "auc"}, "expected exactly one of better_by and not_worse_by"),
        ({"metric": "auc", "better_by": 0, "not_worse_by": 0.1}, "expected exactly one of better_by and not_worse_by"),
        ({"metric": "auc", "better_by": -0.1}, "greater than or equal to 0"),
        ({"metric": "calibration", "better_by": 0}, "Input should be"),
        ({"metric": "auc", "better_by": 0, "confidence": 0.4}, "greater than 0.5"),
    ],
)
def test_rules_that_say_nothing_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        Rule.from_json(json.dumps({"task": "ctr"} | rule))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"rules": [{"task": "cr", "metric": "auc"}]}, "rules[0].task: expected one of ctr, cvr, ctcvr, got 'cr'"),
        ({"rules": [{"task": "cvr", "metric": "ndcg"}]}, "expected a task of ctr, ctcvr, got 'cvr'"),
        ({"rules": [{"task": "ctcvr", "metric": "value"}]}, "value needs evidence.price"),
        ({"rules": [{"task": "ctr", "metric": "auc", "slice": {"tab": "1"}}]}, "got tab"),
        ({"rules": [{"task": "ctr", "metric": "auc"}] * 2}, "rules[1]: the same rule stands there twice"),
        (
            {"off_policy": {"propensity": "p", "reward": "like"}},
            "expected one of the labels click, purchase, got 'like'",
        ),
    ],
)
def test_rules_on_what_is_not_computed_are_refused(config, message):
    for rule in config.get("rules", ()):
        rule["better_by"] = 0
    with pytest.raises(UserError) as error:
        check_evidence(EvidenceConfig.from_json(json.dumps(config)), DEFAULT_TASKS, (("device",),))
    assert message in str(error.value)
