"""The simulated world, its traffic and its output folder."""

import json
import subprocess
import sys
import zoneinfo
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from models.section import UserError
from pipeline.simulator import CLEAN, DirtConfig, SimulationConfig, auc, simulate
from pipeline.simulator.quota import Quota

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"users": 200, "items": 80, "categories": 6, "exposures_per_day": 1500, "days": 3}


def read(out, *parts):
    """All Parquet files below a folder, as one table."""
    return pa.concat_tables([pq.read_table(f) for f in sorted(out.joinpath(*parts).rglob("*.parquet"))])


def contents(out):
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "logs"
    config = SimulationConfig(**{**SMALL, "exposures_per_day": 20_000}, dirt=CLEAN)
    return out, config, simulate(config, out)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_rows(tmp_path):
    config = SimulationConfig(**SMALL)
    simulate(config, tmp_path / "a")
    simulate(config, tmp_path / "b")
    simulate(SimulationConfig(**SMALL, seed=1), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first = "exposures/2026-01-01/part-0.parquet"
    assert contents(tmp_path / "a")[first] != contents(tmp_path / "c")[first]


def test_another_day_leaves_the_days_before_as_they_were(tmp_path):
    out = tmp_path / "logs"
    simulate(SimulationConfig(**SMALL), out)
    before = contents(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    simulate(SimulationConfig(**{**SMALL, "days": 4}), out)
    after = contents(out)
    logs = [name for name in before if name.startswith(("exposures", "clicks", "purchases"))]
    assert len(logs) > 9
    for name in logs:
        assert after[name] == before[name]
        assert (out / name).stat().st_mtime_ns == times[name]
    assert any("2026-01-04" in name for name in after)


def test_logs_of_the_same_configuration_are_kept(tmp_path):
    out = tmp_path / "logs"
    truth = simulate(SimulationConfig(**SMALL), out)
    inode = out.stat().st_ino
    progress = []
    assert simulate(SimulationConfig(**SMALL), out, lambda *done: progress.append(done)) == truth
    assert out.stat().st_ino == inode
    assert progress == []
    assert simulate(SimulationConfig(**SMALL, seed=5), out, lambda *done: progress.append(done)) != truth
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"]


def test_a_simulation_that_ends_early_leaves_what_was_there(tmp_path):
    out = tmp_path / "logs"
    simulate(SimulationConfig(**SMALL), out)
    before = contents(out)

    def stop(done, days):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SimulationConfig(**SMALL, seed=1), out, stop)
    with pytest.raises(KeyboardInterrupt):
        simulate(SimulationConfig(**SMALL), tmp_path / "new", stop)
    assert contents(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"]


def test_leftovers_of_a_killed_simulation_do_not_get_into_the_next(tmp_path):
    for leftover in (".logs.partial", ".logs.replaced"):
        (tmp_path / leftover / "exposures" / "2025-12-31").mkdir(parents=True)
    simulate(SimulationConfig(**SMALL), tmp_path / "logs")
    assert sorted(p.name for p in (tmp_path / "logs" / "exposures").iterdir()) == [
        "2026-01-01", "2026-01-02", "2026-01-03",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("draft")
    with pytest.raises(UserError, match="expected a new or empty folder"):
        simulate(SimulationConfig(**SMALL), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ('{"task_correlation": 1.5}', "task_correlation"),
        ('{"timezone": "Mars/Olympus"}', "timezone"),
        ('{"dirt": {"late": -0.1}}', "dirt.late"),
        ('{"dirt": {"dust": 0.1}}', "dirt.dust"),
        ('{"users": 0}', "users"),
        ('{"format": "xml"}', "format"),
    ],
)
def test_wrong_configuration_names_the_key(wrong, key):
    with pytest.raises(ValidationError) as error:
        SimulationConfig.from_json(wrong)
    assert [".".join(map(str, e["loc"])) for e in error.value.errors()] == [key]


def test_every_day_has_its_exposures_in_whole_requests(clean):
    out, config, truth = clean
    exposures = read(out, "exposures").to_pandas()
    assert len(exposures) == truth["exposures"] == 3 * 20_000
    assert not exposures.duplicated(["request_id", "item_id"]).any()
    by_request = exposures.groupby("request_id")
    assert (by_request["user_id"].nunique() == 1).all()
    assert (by_request["position"].max() == by_request.size()).all()
    assert (by_request["position"].nunique() == by_request.size()).all()
    assert by_request.size().mean() > 4
    assert exposures["item_id"].between(0, config.items - 1).all()
    assert (exposures.groupby("item_id")["price"].nunique() == 1).all()
    assert (exposures["price"] > 0).all()


@pytest.mark.parametrize(("ctr", "cvr"), [(0.07, 0.07), (0.04, 0.1), (0.3, 0.5)])
def test_base_rates_are_the_configured_ones(tmp_path, ctr, cvr):
    truth = simulate(SimulationConfig(**{**SMALL, "exposures_per_day": 20_000}, ctr=ctr, cvr=cvr), tmp_path / "logs")
    rows = read(tmp_path / "logs", "truth", "probabilities").to_pandas()
    # Users and items make rows depend on each other, so the mean is not as sharp as that of a binomial.
    assert truth["ctr"] == pytest.approx(ctr, rel=0.1)
    assert truth["cvr"] == pytest.approx(cvr, rel=0.2)
    # Given the probabilities, clicks are independent: four standard errors.
    error = np.sqrt((rows.true_ctr * (1 - rows.true_ctr)).sum())
    assert abs(rows.click.sum() - rows.true_ctr.sum()) < 4 * error
    clicked = rows[rows.click == 1]
    error = np.sqrt((clicked.true_cvr * (1 - clicked.true_cvr)).sum())
    assert abs(clicked.purchase.sum() - clicked.true_cvr.sum()) < 4 * error
    assert (rows.purchase <= rows.click).all()


def test_oracle_auc_is_that_of_the_true_probabilities(clean):
    out, _, truth = clean
    rows = read(out, "truth", "probabilities").to_pandas()
    clicked = rows[rows.click == 1]
    assert truth["oracle_auc"] == pytest.approx(
        {
            "ctr": roc_auc_score(rows.click, rows.true_ctr),
            "cvr": roc_auc_score(clicked.purchase, clicked.true_cvr),
            "ctcvr": roc_auc_score(rows.purchase, rows.true_ctr * rows.true_cvr),
        }
    )
    assert truth["oracle_auc"]["ctr"] > 0.74
    assert truth["oracle_auc"]["cvr"] > 0.7


def test_auc_counts_ties_one_half():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.5, 0.9]), np.array([False, True, False, True, False])
    # Of the pairs (positive, negative): 2 won, 2 tied, 2 lost.
    assert auc(scores, labels) == pytest.approx(0.5)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert auc(scores, np.zeros(5, bool)) is None


@pytest.mark.parametrize("rho", [-1.0, 0.0, 1.0])
def test_task_correlation_ties_buying_to_clicking(tmp_path, rho):
    simulate(SimulationConfig(**SMALL, task_correlation=rho), tmp_path / "logs")
    rows = read(tmp_path / "logs", "truth", "probabilities")
    logits = [np.log(p / (1 - p)) for p in (rows[c].to_numpy() for c in ("true_ctr", "true_cvr"))]
    correlation = np.corrcoef(*logits)[0, 1]
    # Price, position and device are not affected, so it comes out weaker than configured.
    low, high = {-1.0: (-0.9, -0.4), 0.0: (-0.35, 0.35), 1.0: (0.6, 1.0)}[rho]
    assert low < correlation < high


def test_clicks_fall_with_the_position(clean):
    rows = read(clean[0], "truth", "probabilities").to_pandas()
    exposures = read(clean[0], "exposures").to_pandas()[["request_id", "item_id", "position"]]
    by_position = rows.merge(exposures).groupby("position")["true_ctr"].mean()
    assert by_position[1] > 1.5 * by_position[3] > 1.5 * by_position[8]


def test_history_is_what_the_user_clicked_before(clean):
    out, _, _ = clean
    exposures = read(out, "exposures").to_pandas()
    clicks = read(out, "clicks").to_pandas().merge(exposures[["request_id", "item_id", "user_id"]])
    clicked = defaultdict(list)
    for user, item, time in clicks.sort_values("time")[["user_id", "item_id", "time"]].itertuples(index=False):
        clicked[user].append((time, item))
    requests = exposures.sort_values("time").drop_duplicates("request_id")
    begin, longest = {}, 0
    for user, time, history in requests[["user_id", "time", "history"]].itertuples(index=False):
        # What a user had clicked before the first day shows in the user's first request.
        old = begin.setdefault(user, list(history)) if not clicked[user] or time <= clicked[user][0][0] else begin[user]
        expected = (old + [item for t, item in clicked[user] if t < time])[-20:]
        assert list(history) == expected
        longest = max(longest, len(expected))
    assert longest == 20
    same_request = exposures.groupby("request_id")["history"].agg(lambda h: len({tuple(x) for x in h}))
    assert (same_request == 1).all()


@pytest.mark.parametrize(
    ("zone", "first_day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 28), 23),
        ("America/New_York", date(2026, 10, 31), 25),
        ("Asia/Kolkata", date(2026, 1, 1), 24),
    ],
)
def test_days_and_hours_are_those_of_the_zone(tmp_path, zone, first_day, hours):
    out = tmp_path / "logs"
    simulate(SimulationConfig(**SMALL, timezone=zone, first_day=first_day, dirt=CLEAN), out)
    info = zoneinfo.ZoneInfo(zone)
    for day in (first_day + timedelta(days=i) for i in range(3)):
        for log in ("exposures", "clicks", "purchases"):
            rows = read(out, log, str(day)).to_pylist()
            local = [datetime.fromtimestamp(r["time"] / 1000, info) for r in rows]
            assert {t.date() for t in local} <= {day}
            if log == "exposures":
                assert [r["hour"] for r in rows] == [t.hour for t in local]
                assert [r["weekday"] for r in rows] == [t.weekday() for t in local]
                if day == first_day + timedelta(days=1):  # summer time begins or ends on it
                    times = [r["time"] for r in rows]
                    span = (max(times) - min(times)) / 3_600_000
                    assert hours - 1.5 < span < hours


def test_event_times_follow_their_causes(clean):
    out, config, _ = clean
    exposures = read(out, "exposures").to_pandas().set_index(["request_id", "item_id"])["time"]
    clicks = read(out, "clicks").to_pandas().set_index(["request_id", "item_id"])["time"]
    purchases = read(out, "purchases").to_pandas().set_index(["request_id", "item_id"])["time"]
    to_click = clicks - exposures.reindex(clicks.index)
    to_purchase = purchases - clicks.reindex(purchases.index)
    assert to_click.between(500, config.click_window / timedelta(milliseconds=1)).all()
    assert to_purchase.between(60_000, config.purchase_window / timedelta(milliseconds=1)).all()
    # From minutes to days.
    assert to_purchase.quantile(0.1) < 10 * 60_000
    assert to_purchase.max() > 24 * 3_600_000


def test_a_day_is_cut_into_files(tmp_path):
    simulate(SimulationConfig(**SMALL, rows_per_file=400, dirt=CLEAN), tmp_path / "logs")
    files = sorted((tmp_path / "logs/exposures/2026-01-02").iterdir())
    assert [pq.read_metadata(f).num_rows for f in files] == [400, 400, 400, 300]


def test_truth_on_disk_is_what_is_returned(clean):
    out, config, truth = clean
    on_disk = json.loads((out / "truth" / "truth.json").read_text())
    assert on_disk == truth
    assert SimulationConfig.from_json(json.dumps(on_disk["config"])) == config


def test_clean_logs_have_no_dirt(clean):
    _, _, truth = clean
    assert set(CLEAN.model_dump().values()) == {0.0}
    assert all(share > 0 for share in DirtConfig().model_dump().values())
    for log, kinds in truth["rows"].items():
        assert {name: n for name, n in kinds.items() if n} == {"clean": kinds["clean"]}, log


def test_quota_is_exact_over_the_days():
    quota = Quota()
    taken = [quota.take("late", 0.01, rows) for rows in (30, 30, 50, 90, 1000)]
    # ceil of 1 % of 30, 60, 110, 200 and 1200 rows in all.
    assert np.cumsum(taken).tolist() == [1, 1, 2, 2, 12]
    assert quota.take("other", 0.01, 5) == 1
    assert quota.take("none", 0.0, 1000) == 0
    # What one day cannot give, the next one does.
    assert [quota.take("scarce", 0.1, 100, available=4), quota.take("scarce", 0.1, 100)] == [4, 16]


@pytest.mark.parametrize("module", ["pipeline.simulator", "pipeline.datasets.kuairand"])
def test_import_does_without_tensorflow(module):
    code = f"import sys, {module}; print({{'tensorflow', 'tfx', 'apache_beam'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
