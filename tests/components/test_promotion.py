import json
from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from components.offline_ab import read_evidence
from components.promotion import Verdict, read_verdict
from components.promotion.executor import Executor
from models.section import UserError
from serving.model_repository import ModelRepository
from tests.components.toy_artifacts import artifact, statistics_of, write_statistics
from tests.components.toy_run import write_evaluation, write_evidence, write_serving_check

WINDOW = {"first_day": "2026-01-01", "last_day": "2026-01-04"}


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "repository", "ranker")


def saved_model(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_text(content)
    return folder


def in_service(repository, tmp_path, content):
    version = repository.publish(saved_model(tmp_path / f"before-{content}", content), reason="before")
    repository.promote(version, "before")
    return version


def promote(
    tmp_path, content="candidate", baseline=None, failure=None, statistics=None, name="promotion",
    evidence=("promote",), of_evaluation=None, refused=(),
):
    folder = tmp_path / name
    model = artifact(standard_artifacts.Model, folder / "model")
    saved_model(folder / "model/Format-Serving", content)
    base = artifact(standard_artifacts.Model, folder / "baseline")
    (folder / "baseline/baseline.json").write_text(json.dumps({"version": baseline}))
    evaluation = artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")
    blessing = artifact(standard_artifacts.ModelBlessing, folder / "blessing")
    write_evaluation(folder / "evaluation", folder / "blessing", baseline, failure)
    comparison = artifact(standard_artifacts.ModelEvaluation, folder / "evidence")
    write_evidence(folder / "evidence", *evidence)
    check = artifact(standard_artifacts.InfraBlessing, folder / "serving_check")
    write_serving_check(folder / "serving_check", refused)
    output = artifact(standard_artifacts.PushedModel, folder / "out")
    inputs = {
        "model": [model],
        "baseline": [base],
        "evaluation": [evaluation],
        "blessing": [blessing],
        "evidence": [comparison],
        "serving_check": [check],
    }
    if statistics is not None:
        of_split = {"train": statistics, "eval": of_evaluation or statistics}
        inputs["statistics"] = [write_statistics(folder / "statistics", of_split)]
    Executor().Do(
        inputs,
        {"promotion": [output]},
        {"repository": str(tmp_path / "repository"), "model_name": "ranker", "window": json.dumps(WINDOW)},
    )
    verdict = read_verdict(output.uri)
    assert output.get_int_custom_property("version") == (verdict.version or 0)
    assert output.get_string_custom_property("verdict") == verdict.verdict
    return verdict


def test_first_model_goes_into_service_by_floors(tmp_path, repository):
    statistics, of_evaluation = statistics_of({"click": [[0], [1]]}), statistics_of({"click": [[1], [1]]})
    verdict = promote(tmp_path, statistics=statistics, of_evaluation=of_evaluation)
    reason = "passed all gates, by absolute floors alone, because no model is in service"
    assert verdict == Verdict("promote", 1, 1, None, "promote", (reason,), str(repository.path / "1"))
    assert repository.labels() == {"stable": 1}
    version = repository.stable()
    assert (version.path / "saved_model.pb").read_text() == "candidate"
    published = version.path / "assets.extra/seesaw/published"
    assert (published / "statistics/FeatureStats.pb").read_bytes() == statistics.SerializeToString()
    assert (published / "statistics/evaluation/FeatureStats.pb").read_bytes() == of_evaluation.SerializeToString()
    assert read_evidence(published).verdict == "promote"
    assert (version.path / "assets.extra/tf_serving_warmup_requests").read_text() == "requests"
    assert (version.path / "batching_params.pbtxt").read_text() == "parameters"
    assert version.details["metadata"] == {"window": WINDOW, "baseline": None}
    assert [h["reason"] for h in repository.history()] == [reason, reason]


def test_better_model_replaces_the_one_in_service(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    verdict = promote(tmp_path, baseline=1)
    assert (verdict.verdict, verdict.version, verdict.stable, verdict.baseline) == ("promote", 2, 2, 1)
    assert verdict.reasons == ("passed all gates, against version 1",)
    assert repository.labels() == {"stable": 2, "previous": 1}


@pytest.mark.parametrize("baseline", [None, 1])
def test_failed_gate_keeps_the_model_in_service_and_says_why(tmp_path, repository, baseline):
    if baseline:
        in_service(repository, tmp_path, "old")
    verdict = promote(tmp_path, baseline=baseline, failure="Metric not found.")
    assert (verdict.verdict, verdict.stable) == ("keep", baseline)
    assert verdict.reasons == ("ctr auc: Metric not found.",)
    assert repository.labels() == ({"stable": 1, "candidate": 2} if baseline else {"candidate": 1})


@pytest.mark.parametrize("verdict, says", [("keep", "is against it"), ("not_enough_data", "is not enough to decide")])
def test_evidence_against_a_candidate_that_passed_the_gates_keeps_it_out_and_is_told(
    tmp_path, repository, verdict, says
):
    in_service(repository, tmp_path, "old")
    found = promote(tmp_path, baseline=1, evidence=(verdict, ("ctcvr auc: -0.01",)))
    assert (found.verdict, found.stable, found.evidence) == ("keep", 1, verdict)
    assert found.reasons == (f"the gates passed, but the evidence {says}", "ctcvr auc: -0.01")


def test_evidence_for_a_candidate_that_failed_a_gate_keeps_it_out_and_is_told(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    found = promote(tmp_path, baseline=1, failure="Metric not found.", evidence=("promote", ("ctcvr auc: +0.01",)))
    assert (found.verdict, found.evidence) == ("keep", "promote")
    assert found.reasons == (
        "the evidence is for it, but the gates did not pass",
        "ctr auc: Metric not found.",
        "ctcvr auc: +0.01",
    )


def test_both_against_a_candidate_are_both_told(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    found = promote(tmp_path, baseline=1, failure="Metric not found.", evidence=("keep", ("ctcvr auc: -0.01",)))
    assert (found.verdict, found.reasons) == ("keep", ("ctr auc: Metric not found.", "ctcvr auc: -0.01"))


def test_evidence_for_a_candidate_that_passed_the_gates_is_told_with_it(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    found = promote(tmp_path, baseline=1, evidence=("promote", ("ctcvr auc: +0.01",)))
    assert found.verdict == "promote"
    assert found.reasons == ("passed all gates, against version 1", "ctcvr auc: +0.01")


@pytest.mark.parametrize("failure", [None, "Metric not found."])
def test_a_candidate_that_the_serving_check_refused_is_not_published_and_says_why(tmp_path, repository, failure):
    in_service(repository, tmp_path, "old")
    before = repository.history()
    verdict = promote(tmp_path, baseline=1, failure=failure, refused=("latency: too slow",))
    gates = "passed all gates, against version 1" if failure is None else "ctr auc: Metric not found."
    reasons = ("the serving check did not pass", "latency: too slow", gates)
    assert verdict == Verdict("keep", None, 1, 1, "promote", reasons, None)
    assert repository.history() == before and [v.number for v in repository.versions()] == [1]


@pytest.mark.parametrize("baseline, found", [(None, 2), (1, 2)])
def test_model_that_another_run_promoted_stays(tmp_path, repository, baseline, found):
    in_service(repository, tmp_path, "old")
    in_service(repository, tmp_path, "of another run")
    verdict = promote(tmp_path, baseline=baseline)
    assert (verdict.verdict, verdict.version, verdict.stable) == ("keep", 3, 2)
    assert verdict.reasons[1] == (
        f"the model in service changed: expected {'version 1' if baseline else 'none'}, found version 2 since this "
        f"run began; run again to compare with it"
    )
    assert repository.labels() == {"stable": 2, "previous": 1, "candidate": 3}


def test_doing_it_again_after_a_kill_changes_nothing(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    promote(tmp_path, baseline=1)
    before = repository.history()
    again = promote(tmp_path, baseline=1, name="again")
    assert (again.verdict, again.version, again.stable) == ("promote", 2, 2)
    assert repository.history() == before
    assert [v.number for v in repository.versions()] == [1, 2]


def test_killed_between_publication_and_promotion(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    repository.publish(saved_model(tmp_path / "candidate", "candidate"), reason="the run that was killed")
    verdict = promote(tmp_path, baseline=1)
    assert (verdict.verdict, verdict.version) == ("promote", 2)
    assert repository.labels() == {"stable": 2, "previous": 1}


def test_candidate_without_a_model_is_an_error_and_changes_nothing(tmp_path, repository):
    in_service(repository, tmp_path, "old")
    before = repository.history()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="no saved_model.pb"):
        repository.publish(tmp_path / "elsewhere", reason="")
    assert repository.history() == before
