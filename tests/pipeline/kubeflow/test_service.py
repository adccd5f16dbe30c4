"""Uploads, runs, schedules and backfills, against a server that holds requests to the API's schemas."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.runtime import prepare_process

prepare_process()
pytest.importorskip("kfp", reason="the extra 'kubeflow' is not installed")

import kfp_server_api  # noqa: E402

from pipeline.cli import app  # noqa: E402
from pipeline.kubeflow import compiler  # noqa: E402

sys.path.append(str(Path(__file__).parent))
from fake_api import FakeApi, Refused, check, serving  # noqa: E402

DEMO = Path(__file__).parents[3] / "pipeline" / "configs" / "demo.yaml"


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compiling takes seconds, and is the same for the same configuration."""
    known = {}
    compile_pipeline = compiler.compile_pipeline

    def remembered(config, image=None):
        # The address of the server is no part of what is compiled.
        cluster = config.kubeflow.model_copy(update={"host": None})
        key = (config.model_copy(update={"kubeflow": cluster}).canonical_json(), image)
        if key not in known:
            known[key] = compile_pipeline(config, image)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile_pipeline", remembered)
        yield


@pytest.fixture
def api():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """The client keeps settings in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))


def seesaw(api: FakeApi, command: str, *options: str, fails: bool = False) -> str:
    given = ["kubeflow", command, "--config", str(DEMO), "--host", api.url, *options]
    result = CliRunner(env={"COLUMNS": "250"}).invoke(app, given)
    assert (result.exit_code != 0) == fails, result.output
    return result.output


SCHEDULED = ["POST /apis/v2beta1/pipelines/upload", "POST /apis/v2beta1/pipelines/upload_version",
             "POST /apis/v2beta1/experiments", "POST /apis/v2beta1/recurringruns"]  # fmt: skip


# submit


def test_submit_uploads_and_runs(api):
    output = seesaw(api, "submit", "--param", "last_day=2026-01-08", "--param", "epochs=3", "--image", "seesaw:2")
    (run,) = api.runs.values()
    assert api.writes == [*SCHEDULED[:3], "POST /apis/v2beta1/runs"]
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["last_day"], parameters["epochs"], parameters["image"]) == ("2026-01-08", 3, "seesaw:2")
    assert run["display_name"].startswith("demo 2026-01-08") and run["run_id"] in output
    version = api.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"].startswith("demo-")


def test_submitting_twice_is_submitting_once(api):
    seesaw(api, "submit", "--param", "last_day=2026-01-08")
    before = api.writes
    assert "is there already (pending)" in seesaw(api, "submit", "--param", "last_day=2026-01-08")
    assert "is there already (succeeded)" in seesaw(api, "submit", "--param", "last_day=2026-01-08")
    assert api.writes == before
    seesaw(api, "submit", "--param", "last_day=2026-01-08", "--again")
    seesaw(api, "submit", "--param", "last_day=2026-01-09")
    assert len(api.runs) == 3 and len(api.pipelines) == 1 and len(api.experiments) == 1


def test_the_latest_days_are_run_again_once_a_run_has_ended(api):
    seesaw(api, "submit")
    assert "is there already" in seesaw(api, "submit")
    seesaw(api, "submit")
    assert len(api.runs) == 2


def test_a_failed_run_is_started_again(api):
    api.finish = "FAILED"
    seesaw(api, "submit", "--param", "last_day=2026-01-08")
    seesaw(api, "runs")
    seesaw(api, "submit", "--param", "last_day=2026-01-08")
    assert len(api.runs) == 2


def test_another_configuration_is_another_version(api):
    seesaw(api, "submit")
    seesaw(api, "submit", "--set", "training.shuffle_rows=777")
    names = {v["display_name"] for v in api.versions.values()}
    assert len(api.pipelines) == 1 and len(names - {"demo"}) == 2


def test_account_and_root_are_those_of_the_configuration(api):
    seesaw(api, "submit", "--set", "kubeflow.service_account=trainer", "--set", "kubeflow.pipeline_root=gs://b/p")
    (run,) = api.runs.values()
    assert run["service_account"] == "trainer" and run["runtime_config"]["pipeline_root"] == "gs://b/p"


# schedule


def test_schedule(api):
    seesaw(api, "schedule", "--set", "kubeflow.schedule={cron: 0 30 4 * * *}")
    (job,) = api.recurring_runs.values()
    assert api.writes == SCHEDULED
    assert job["trigger"]["cron_schedule"]["cron"] == "0 30 4 * * *"
    assert (job["no_catchup"], int(job["max_concurrency"]), job["mode"]) == (True, 1, "ENABLE")
    assert job["runtime_config"]["parameters"]["last_day"] == "latest"


def test_scheduling_twice_is_scheduling_once(api):
    seesaw(api, "schedule")
    assert "is scheduled already" in seesaw(api, "schedule")
    assert api.writes == SCHEDULED


@pytest.mark.parametrize(
    "change", ["kubeflow.schedule={cron: 0 0 7 * * *}", "training.epochs=2", "kubeflow.schedule={enabled: false}"]
)
def test_a_change_replaces_the_schedule(api, change):
    seesaw(api, "schedule")
    (old,) = api.recurring_runs
    seesaw(api, "schedule", "--set", change)
    (new,) = api.recurring_runs
    assert new != old
    # The new one first: there is a schedule at any time.
    assert [w.split()[0] for w in api.writes if "recurringruns" in w] == ["POST", "POST", "DELETE"]


def test_the_end_of_a_schedule(api):
    seesaw(api, "schedule")
    seesaw(api, "schedule", "--delete")
    assert not api.recurring_runs
    assert "was not scheduled" in seesaw(api, "schedule", "--delete")


# runs and backfill


def test_runs_are_listed_newest_first(api):
    for day in ("2026-01-08", "2026-01-09"):
        seesaw(api, "submit", "--param", f"last_day={day}")
    lines = seesaw(api, "runs").splitlines()
    assert "2026-01-09" in lines[1] and "2026-01-08" in lines[2]


BACKFILL = ("--from", "2026-01-08", "--to", "2026-01-10", "--poll", "0.1")


def days_run(api: FakeApi) -> list[str]:
    return [run["runtime_config"]["parameters"]["last_day"] for run in api.runs.values()]


def test_backfill_runs_windows_in_order_one_at_a_time(api):
    seesaw(api, "backfill", *BACKFILL)
    assert days_run(api) == ["2026-01-08", "2026-01-09", "2026-01-10"]
    # Each is looked at until it has ended, before the next one is started.
    asked = [r for r in api.requests if r == "POST /apis/v2beta1/runs" or r.startswith("GET /apis/v2beta1/runs/")]
    looks = [f"GET /apis/v2beta1/runs/{run}" for run in api.runs]
    assert asked == [r for look in looks for r in ("POST /apis/v2beta1/runs", look, look)]


def test_backfill_leaves_out_what_has_succeeded(api):
    seesaw(api, "submit", "--param", "last_day=2026-01-09")
    seesaw(api, "runs")
    seesaw(api, "backfill", *BACKFILL)
    assert days_run(api) == ["2026-01-09", "2026-01-08", "2026-01-10"]
    before = api.writes
    seesaw(api, "backfill", *BACKFILL)
    assert api.writes == before


def test_backfill_stops_at_a_failure_and_goes_on_from_there(api):
    api.fail_on = "2026-01-09"
    output = seesaw(api, "backfill", *BACKFILL, fails=True)
    assert "failed; the windows after it were not run" in output
    assert days_run(api) == ["2026-01-08", "2026-01-09"]
    api.fail_on = None
    seesaw(api, "backfill", *BACKFILL)
    assert days_run(api) == ["2026-01-08", "2026-01-09", "2026-01-09", "2026-01-10"]


# dry runs


@pytest.mark.parametrize(
    "command, options, shown",
    [
        ("submit", ("--param", "epochs=3"), ["POST /apis/v2beta1/runs", '"epochs": 3']),
        ("schedule", (), ["POST /apis/v2beta1/recurringruns", '"no_catchup": true', '"max_concurrency": 1']),
        ("backfill", BACKFILL, ['"last_day": "2026-01-08"', '"last_day": "2026-01-10"']),
    ],
)
def test_a_dry_run_prints_the_requests_and_sends_none(api, command, options, shown):
    output = seesaw(api, command, *options, "--dry-run")
    assert api.writes == []
    for text in ["POST /apis/v2beta1/pipelines/upload?name=demo", "multipart/form-data: pipeline.yaml", *shown]:
        assert text in output
    assert output.count("POST /apis/v2beta1/pipelines/upload?") == 1, "what is made for all runs is made once"
    seesaw(api, command, *options)
    assert api.writes, "and after it requests are sent again"


def test_a_dry_run_where_nothing_would_change_says_so(api):
    seesaw(api, "schedule")
    assert seesaw(api, "schedule", "--dry-run").strip() == "nothing would change"


@pytest.mark.parametrize(
    "command, options", [("submit", ()), ("schedule", ()), ("schedule", ("--delete",)), ("backfill", BACKFILL)]
)
def test_a_dry_run_without_an_address_is_that_of_an_empty_installation(api, command, options):
    there = seesaw(api, command, *options, "--dry-run")
    nowhere = CliRunner(env={"COLUMNS": "250"}).invoke(
        app, ["kubeflow", command, "--config", str(DEMO), *options, "--dry-run"]
    )
    assert nowhere.exit_code == 0, nowhere.output
    note, requests = nowhere.output.split("\n", 1)
    assert "No kubeflow.host is given" in note and requests == there


def test_what_changes_something_needs_an_address():
    result = CliRunner().invoke(app, ["kubeflow", "submit", "--config", str(DEMO)])
    assert result.exit_code == 1 and "kubeflow.host: required, but not given" in result.output


# mistakes


@pytest.mark.parametrize(
    "options, message",
    [
        (("--param", "epoch=3"), "--param epoch: expected one of batch_size, "),
        (("--param", "epochs=many"), "--param epochs: expected NUMBER_INTEGER, got 'many'"),
        (("--param", "last_day=soon"), "--param last_day: expected a day such as 2026-01-31, got 'soon'"),
        (("--param", "epochs"), "--param epochs: expected NAME=VALUE"),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(api, options, message):
    assert message in seesaw(api, "submit", *options, fails=True)
    assert api.writes == []


def test_a_schedule_that_would_read_the_same_days_forever_is_refused(api):
    output = seesaw(api, "schedule", "--set", "window.last_day=2026-01-08", fails=True)
    assert "window.last_day: expected 'latest' for a schedule, got 2026-01-08" in output
    assert api.writes == []


def test_a_silent_address_is_told():
    class Nobody:
        url = "http://127.0.0.1:9"

    output = seesaw(Nobody(), "runs", fails=True)
    assert "kubeflow.host: nothing answers at 'http://127.0.0.1:9'" in output


# the server itself


@pytest.mark.parametrize(
    "body, message",
    [
        ({"display_nam": "x"}, "unknown field display_nam"),
        ({"no_catchup": "yes"}, "no_catchup: expected bool"),
        ({"mode": "ON"}, "expected one of"),
        ({"trigger": {"cron_schedule": {"cron": 5}}}, "cron: expected str"),
        ({"runtime_config": []}, "expected an object"),
    ],
)
def test_the_server_holds_bodies_to_the_schema(body, message):
    with pytest.raises(Refused, match=message):
        check(body, kfp_server_api.V2beta1RecurringRun)
