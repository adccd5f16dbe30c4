"""A look at a sample against the run on all rows."""

import json

import pytest

from components.log_example_gen.sample import inspect
from components.log_example_gen.window import resolve_window
from pipeline.simulator import simulate
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.truth import expected_reconciliation
from tests.components.log_example_gen.log_files import (
    attribution_config,
    event,
    exposure,
    features,
    logs_config,
    window_config,
    write_file,
    write_logs,
)

FEATURES = features(
    {"name": "device", "kind": "id"},
    {"name": "price", "kind": "number"},
    {"name": "history", "kind": "id_list", "max_length": 5, "separator": "|"},
)
ATTRIBUTION = attribution_config("30m", "1d")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    config = {"exposures_per_day": 2000, "days": 9, "users": 500, "items": 200, "format": "csv"}
    simulate(SimulationConfig.from_json(json.dumps(config)), root)
    logs = logs_config(root, "csv", max_rejected=0.2)
    return root, logs, resolve_window(logs, ATTRIBUTION, window_config(4, 2))


def test_all_rows_give_the_outcomes_of_a_run(simulated):
    root, logs, window = simulated
    found = inspect(logs, ATTRIBUTION, FEATURES, window)
    expected = expected_reconciliation(root, window, ATTRIBUTION)
    for log in found.logs:
        outcomes = dict(log.outcomes)
        rejected = {}
        for rejection in log.rejected:
            rejected[rejection.reason] = rejected.get(rejection.reason, 0) + rejection.rows
        assert {**outcomes, "rejected": rejected} == expected["logs"][log.log]["outcomes"]
        assert (log.rows, log.complete) == (expected["logs"][log.log]["read"], True)
    for split, check in found.splits.items():
        assert {"rows": check.rows, "labels": check.labels} == expected["examples"][split]
        assert check.estimated_rows == pytest.approx(check.rows, rel=0.1)
    assert (found.first_day, found.last_day) == (window.first_day, window.last_day)
    assert found.problems == ()


def test_sample_of_days_around_the_split(simulated):
    _, logs, window = simulated
    found = inspect(logs, ATTRIBUTION, FEATURES, window, max_rows=5000)
    # Two days of about 2000 rows each fit.
    assert (window.first_eval_day - found.first_day).days == 1
    assert found.last_day == window.first_eval_day
    exposures, clicks, purchases = found.logs
    assert 4000 <= exposures.rows <= 5000
    assert exposures.complete
    # The simulator adds 1 % of clicks without exposure and 0.5 % before theirs.
    assert clicks.matched == pytest.approx(0.985, abs=0.01)
    # 5 % of few purchases have no click, or come before it.
    assert 0.7 < purchases.matched < 1
    assert found.splits["train"].estimated_rows == pytest.approx(8000, rel=0.1)
    assert found.splits["eval"].estimated_rows == pytest.approx(4000, rel=0.1)
    assert found.splits["train"].labels["click"] / found.splits["train"].rows == pytest.approx(0.07, abs=0.03)


def test_part_of_a_day(simulated):
    _, logs, window = simulated
    found = inspect(logs, ATTRIBUTION, FEATURES, window, max_rows=500)
    assert not found.logs[0].complete
    assert found.first_day == found.last_day == window.first_eval_day
    # A purchase may belong to a click of the day before: a sample of one day does not tell.
    assert found.logs[2].matched is None


def test_columns(tmp_path):
    rows = [
        exposure(f"r{i}", f"2026-01-0{1 + i % 4} 10:00", device=["a", "a", "b", None][i % 4], price=float(i), other=1)
        | {"history": [["1", "2"], [], None, ["1"]][i % 4]}
        for i in range(40)
    ]
    write_logs(tmp_path, "jsonl", rows, [event("r1", "2026-01-02 10:01")])
    logs = logs_config(tmp_path, "jsonl")
    window = resolve_window(logs, ATTRIBUTION, window_config())
    found = inspect(logs, ATTRIBUTION, FEATURES, window)
    columns = {c.name: c for c in found.logs[0].columns}
    fillers = 4
    device = columns["device"]
    assert (device.types, device.distinct) == (("text",), 2)
    assert device.missing == (10 + fillers) / 44
    assert device.values == {"a": 20 / 44, "b": 10 / 44}
    assert columns["price"].values == {"min": 0.0, "median": 19.5, "max": 39.0}
    assert (columns["history"].missing, columns["history"].distinct) == ((20 + fillers) / 44, 2)
    assert found.logs[0].unused == ("other",)


def test_problems_are_told_and_not_raised(tmp_path):
    write_logs(tmp_path, "csv", [exposure("r", "2026-01-02 10:00", device="a", price="cheap", history="")])
    write_file(tmp_path / "clicks/2026-01-02/bad.csv", [event("a", 12)] * 5)
    logs = logs_config(tmp_path, "csv")
    window = resolve_window(logs, ATTRIBUTION, window_config())
    wanted = (*FEATURES, *features({"name": "age", "kind": "number"}))
    found = inspect(logs, ATTRIBUTION, wanted, window)
    assert len(found.problems) == 2
    assert "feature 'age' reads column 'age', which no file has" in found.problems[0]
    assert found.problems[1].startswith("exposures: 1 of 5 rows were rejected (20.0%")
    age = next(c for c in found.logs[0].columns if c.name == "age")
    assert (age.types, age.missing) == ((), 1.0)
    write_file(tmp_path / "exposures/2026-01-02/z-half.csv", [{"a": 1, "b": 2}], ["a", "a"])
    assert any("z-half.csv" in problem for problem in inspect(logs, ATTRIBUTION, wanted, window).problems)
