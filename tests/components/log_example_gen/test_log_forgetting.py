"""Users who are forgotten: their rows go from the joined days, and do not come back."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from components.log_example_gen.days import joined_folders, read_folder
from components.log_example_gen.forgetting import count_rows, forget
from components.log_example_gen.forgotten import NOBODY, Forgotten
from components.log_example_gen.parsing import log_specs
from models.section import UserError
from tests.components.log_example_gen.log_files import (
    attribution_config,
    event,
    exposure,
    logs_config,
    run,
    window_of_days,
    write_file,
    write_logs,
)

ATTRIBUTION = attribution_config("30m", "2h")
WINDOW = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-10")
USERS = {"a": "ann", "b": "bob", "c": "ann"}


@pytest.fixture
def shop(tmp_path):
    shown = [exposure(f"{r}{d}", f"2026-01-0{d} 10:00", user=u) for d in (2, 3) for r, u in USERS.items()]
    # Ann's last exposure before midnight: her purchase of the next day counts on its day.
    shown.append(exposure("late", "2026-01-02 23:50", user="ann"))
    clicks = [event(f"{r}{d}", f"2026-01-0{d} 10:0{m}") for d in (2, 3) for r in "ab" for m in (1, 2)]
    clicks.append(event("late", "2026-01-02 23:55"))
    bought = [event("a2", "2026-01-02 10:30", value=2.0), event("late", "2026-01-03 00:30", value=1.0)]
    write_logs(tmp_path / "logs", "csv", shown, clicks, bought)
    bad = [exposure("x", 12, user="ann"), exposure("y", 12, user="anna")]
    write_file(tmp_path / "logs/exposures/2026-01-02/bad.csv", bad)
    return logs_config(tmp_path / "logs", "csv", max_rejected=0.5)


def joined_run(tmp_path, name, logs, joined="joined"):
    return run(tmp_path / name, logs, (), WINDOW, ATTRIBUTION, joined=tmp_path / joined)


def requests(got):
    return sorted(request for request, _ in got.rows)


class TestForget:
    def test_the_report_of_a_stopped_run_goes(self, tmp_path, shop):
        strict = logs_config(tmp_path / "logs", "csv", max_rejected=0.01)
        with pytest.raises(UserError, match="stopped/report.html"):
            joined_run(tmp_path, "a", strict)
        assert "ann" in (tmp_path / "joined/stopped/report.html").read_text()
        forget(str(tmp_path / "joined"), ["ann"])
        assert not (tmp_path / "joined/stopped").exists()

    def test_rows_go_and_do_not_come_back(self, tmp_path, shop):
        before = joined_run(tmp_path, "a", shop)
        removed = forget(str(tmp_path / "joined"), ["ann"])
        assert {day.day: rows for day, rows in removed.examples.items()} == {2: 3, 3: 2}
        assert requests(before) == ["a2", "a3", "b2", "b3", "c2", "c3", "late"]

        after = joined_run(tmp_path, "b", shop)
        assert after.examples.get_string_custom_property("joined_days") == ""
        assert requests(after) == ["b2", "b3"]
        assert after.rows["b2", "i1"] == before.rows["b2", "i1"]
        assert after.report["examples"] == {
            "train": {"rows": 2, "labels": {"click": 1, "purchase": 0}},  # b2 and the filler
            "eval": {"rows": 2, "labels": {"click": 1, "purchase": 0}},
        }
        outcomes = {log: counts["outcomes"] for log, counts in after.report["logs"].items()}
        assert outcomes["exposures"]["forgotten"] == {"": 5}
        assert outcomes["click"]["forgotten"] == {"": 5}  # two of a2, two of a3, one of late
        assert outcomes["purchase"]["forgotten"] == {"": 2}

    def test_a_join_from_the_logs_leaves_them_out_in_the_same_way(self, tmp_path, shop):
        joined_run(tmp_path, "a", shop)
        forget(str(tmp_path / "joined"), ["ann"])
        cleaned = joined_run(tmp_path, "b", shop)
        forget(str(tmp_path / "new"), ["ann"])
        anew = joined_run(tmp_path, "c", shop, "new")
        assert anew.examples.get_string_custom_property("joined_days") == "2026-01-02,2026-01-03"
        assert {s: sorted(r) for s, r in anew.records.items()} == {s: sorted(r) for s, r in cleaned.records.items()}
        for log in ("exposures", "click", "purchase"):
            assert anew.report["logs"][log]["days"] == cleaned.report["logs"][log]["days"]

    def test_past_examples_keep_theirs(self, tmp_path, shop):
        before = joined_run(tmp_path, "a", shop)
        forget(str(tmp_path / "joined"), ["ann"])
        forgotten = Forgotten.read(str(tmp_path / "joined"))
        files = sorted(str(f) for f in Path(before.examples.uri).rglob("data_tfrecord-*"))
        assert sum(count_rows(f, forgotten) for f in files) == 5
        assert sum(count_rows(f, NOBODY) for f in files) == 0
        kept = [f for _, folder in joined_folders(str(tmp_path / "joined")) for f in Path(folder).glob("examples-*")]
        assert kept and sum(count_rows(str(f), forgotten) for f in kept) == 0

    def test_rejected_rows_with_the_id(self, tmp_path, shop):
        before = joined_run(tmp_path, "a", shop)
        assert forget(str(tmp_path / "joined"), ["ann"]).rejected == 1
        after = joined_run(tmp_path, "b", shop)
        assert [len(got.rejected) for got in (before, after)] == [2, 1]
        assert "anna" in after.rejected[0]["raw"]
        # The counts are as they were, and the row that stood in the report as an example is gone.
        assert after.report["logs"]["exposures"]["outcomes"]["rejected"] == {"time_out_of_range": 2}
        text = (tmp_path / "b/report/report.json").read_text() + (tmp_path / "b/report/report.html").read_text()
        assert '"ann"' not in text and "ann," not in text.replace("anna", "")

    def test_again_and_another_user(self, tmp_path, shop):
        joined_run(tmp_path, "a", shop)
        joined = str(tmp_path / "joined")
        forget(joined, ["ann"])
        names = {f: os.stat(f).st_mtime_ns for f in (tmp_path / "joined").rglob("*") if f.is_file()}
        again = forget(joined, ["ann"])
        assert (again.examples, again.rejected) == ({}, 0)
        assert {f: os.stat(f).st_mtime_ns for f in names if f.name != "forgotten.json"} == {
            f: t for f, t in names.items() if f.name != "forgotten.json"
        }
        assert sum(forget(joined, ["bob"]).examples.values()) == 2
        forgotten = Forgotten.read(joined)
        assert forgotten.mask(pa.chunked_array([["ann", "bob", "anna"]])).tolist() == [True, True, False]

    def test_a_day_that_is_left_without_rows(self, tmp_path, shop):
        joined_run(tmp_path, "a", shop)
        forget(str(tmp_path / "joined"), ["ann", "bob", "filler"])
        for _, folder in joined_folders(str(tmp_path / "joined")):
            manifest = read_folder(folder, "shards")
            assert manifest["shards"] == {}
            assert manifest["counts"]["examples"][manifest["day"]]["rows"] == 0

    def test_a_kill_between_the_list_and_the_days(self, tmp_path, shop):
        """Days that were not cleaned yet do not count: they are joined again without the users."""
        joined_run(tmp_path, "a", shop)
        Forgotten.read(str(tmp_path / "joined")).with_users(["ann"]).write(str(tmp_path / "joined"))
        after = joined_run(tmp_path, "b", shop)
        assert after.examples.get_string_custom_property("joined_days") == "2026-01-02,2026-01-03"
        assert requests(after) == ["b2", "b3"]


class TestList:
    def test_ids_are_hashed(self, tmp_path):
        Forgotten().with_users(["ann", "bob"]).write(str(tmp_path))
        text = (tmp_path / "forgotten.json").read_text()
        assert "ann" not in text and "bob" not in text
        found = Forgotten.read(str(tmp_path))
        assert found.mask(pa.chunked_array([["bob", None, "x"], ["ann"]])).tolist() == [True, False, False, True]
        assert found.digest != "" == NOBODY.digest
        assert found.with_users(["ann"]) == found

    def test_nobody(self, tmp_path):
        assert Forgotten.read(str(tmp_path)) == NOBODY
        assert NOBODY.mask(pa.chunked_array([["ann"]])).tolist() == [False]

    def test_events_of_a_key_that_two_users_share(self):
        specs = log_specs(logs_config(Path("/logs")), ())

        def table(log, *rows):
            return pa.Table.from_pylist([dict(zip(specs[log].schema.names, row)) for row in rows], specs[log].schema)

        tables = {
            "exposures": table("exposures", ("r", "i", "ann", 1, 7), ("r", "i", "bob", 2, 7), ("s", "i", "ann", 1, 8)),
            "click": table("click", ("r", "i", 3, 7), ("s", "i", 3, 8)),
        }
        stay, gone = NOBODY.with_users(["ann"]).split(tables)
        assert stay["exposures"].column("user_id").to_pylist() == ["bob"]
        assert stay["click"].column("request_id").to_pylist() == ["r"]
        assert gone["click"].column("request_id").to_pylist() == ["s"]
        assert gone["exposures"].num_rows == 2
