import numpy as np
import pytest

from components.offline_ab.config import EvidenceConfig, OffPolicyConfig
from components.offline_ab.off_policy import off_policy_values
from models.metrics.off_policy import (
    LoggedChoices,
    effective_sample_size,
    estimator_terms,
    greedy_policy,
    softmax_policy,
)
from models.section import UserError
from models.tasks import DEFAULT_TASKS, outputs
from tests.benchmarks.evidence_worlds import logged

OUTPUTS = outputs(DEFAULT_TASKS)


def config(**options):
    return EvidenceConfig(replicates=100, off_policy=OffPolicyConfig(propensity="p", reward="click", **options))


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_truth_is_recovered_and_covered(temperature):
    runs = [logged(seed, temperature=temperature) for seed in range(40)]
    found = [off_policy_values(rows, OUTPUTS, config(temperature=temperature, clip=1000.0)) for rows, _ in runs]
    truth = np.array([values for _, values in runs])
    for i, name in enumerate(("ips", "snips", "dr", "clipped_ips", "clipped_dr")):
        of = [f[i] for f in found]
        assert {v.estimator for v in of} == {name}
        for side, column in (("baseline", 0), ("candidate", 1)):
            estimates = [getattr(v, side) for v in of]
            errors = np.array([e.value for e in estimates]) - truth[:, column]
            assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(len(errors)) + 1e-4, (name, side)
            covered = [e.low <= t <= e.high for e, t in zip(estimates, truth[:, column])]
            # 40 intervals of 95 %: fewer than 33 is a chance in a thousand.
            assert np.mean(covered) >= 33 / 40, (name, side)
        covered = [v.difference.low <= b - a <= v.difference.high for v, (a, b) in zip(of, truth)]
        assert np.mean(covered) >= 33 / 40, name


def test_doubly_robust_varies_least_and_clipping_bounds_the_weights():
    rows, _ = logged(3)
    values = {v.estimator: v for v in off_policy_values(rows, OUTPUTS, config(clip=2.0))}
    width = {name: v.candidate.high - v.candidate.low for name, v in values.items()}
    assert width["dr"] < width["ips"]
    assert width["clipped_ips"] < width["ips"]
    assert values["clipped_ips"].candidate.value < values["ips"].candidate.value


def test_terms_of_two_requests_by_hand():
    choices = LoggedChoices(
        request=np.array([0, 0, 1, 1]), count=2, chosen=np.array([0, 3]), propensity=np.array([0.5, 0.25]),
        reward=np.array([1.0, 0.0]),
    )  # fmt: skip
    policy = np.array([1.0, 0.0, 0.5, 0.5])
    predicted = np.array([0.4, 0.1, 0.2, 0.6])
    terms = estimator_terms(choices, policy, predicted, clip=1.5)
    ratio = {name: t[:, 0].sum() / t[:, 1].sum() for name, t in terms.items()}
    w = np.array([1 / 0.5, 0.5 / 0.25])
    assert ratio["ips"] == pytest.approx((w[0] * 1 + w[1] * 0) / 2)
    assert ratio["snips"] == pytest.approx(w[0] / w.sum())
    direct = (0.4 + (0.5 * 0.2 + 0.5 * 0.6)) / 2
    assert ratio["dr"] == pytest.approx(direct + (w[0] * 0.6 + w[1] * -0.6) / 2)
    assert ratio["clipped_ips"] == pytest.approx(1.5 / 2)
    assert ratio["clipped_dr"] == pytest.approx(direct + (1.5 * 0.6 - 1.5 * 0.6) / 2)


def test_policies_are_distributions_over_each_request():
    request, scores = np.array([0, 0, 0, 1, 1]), np.array([0.2, 0.5, 0.5, 0.1, 0.3])
    assert greedy_policy(request, 2, scores).tolist() == [0, 0.5, 0.5, 0, 1]
    soft = softmax_policy(request, 2, scores, 1.0)
    odds = scores / (1 - scores)
    expected = np.concatenate([odds[:3] / odds[:3].sum(), odds[3:] / odds[3:].sum()])
    np.testing.assert_allclose(soft, expected, rtol=1e-9)
    np.testing.assert_allclose(softmax_policy(request, 2, scores, 1e-3), [0, 0.5, 0.5, 0, 1], atol=1e-9)


def test_effective_sample_size():
    assert effective_sample_size(np.ones(10)) == pytest.approx(10)
    assert effective_sample_size(np.array([1.0, 0, 0, 0])) == pytest.approx(1)


def test_exploding_weights_are_refused_with_the_reason():
    rows, _ = logged(1, exploration=0.5)
    found = off_policy_values(rows, OUTPUTS, config(minimum_effective_share=0.9))
    assert all(v.candidate is None and "the weights explode" in v.refused for v in found)
    assert found[0].effective_share < 0.9


def test_wrong_propensities_are_refused():
    rows, _ = logged(1)
    rows.others["propensity"] = rows.others["propensity"] / 2
    found = off_policy_values(rows, OUTPUTS, config())
    assert "the mean weight is" in found[0].refused and found[0].candidate is None


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o: o.pop("propensity"), "no row has a value in column 'p'"),
        (lambda o: o.update(propensity=o["propensity"] * 0), "expected a probability above 0 in column 'p'"),
        (lambda o: o.update(chosen=o["chosen"] * 0), "found 300 of 300 requests without"),
    ],
)
def test_logs_that_cannot_be_used_are_refused(change, message):
    rows, _ = logged(1, requests=300)
    change(rows.others)
    with pytest.raises(UserError, match=message):
        off_policy_values(rows, OUTPUTS, config())


def test_nothing_is_estimated_where_nothing_is_asked():
    assert off_policy_values(logged(1, requests=10)[0], OUTPUTS, EvidenceConfig()) == []
