"""Joined days: kept, reused, joined again where their files change, and only ever whole."""

import json
import os
import signal
from datetime import date
from pathlib import Path

import pytest

from components.log_example_gen.config import SamplingConfig
from components.log_example_gen.days import (
    drop_older,
    joined_folders,
    move_whole,
    ranges,
    read_folder,
    write_manifest,
)
from models.section import UserError
from tests.components.log_example_gen.log_files import (
    attribution_config,
    event,
    exposure,
    logs_config,
    read_records,
    run,
    window_of_days,
    write_file,
    write_logs,
)

DAYS = tuple(f"2026-01-{day:02d}" for day in range(1, 13))
ATTRIBUTION = attribution_config("30m", "2h")
SCRIPT = Path(__file__).with_name("joined_run.py")
REPOSITORY = Path(__file__).parents[3]


def window(first, last, data_end="2026-01-31"):
    """Days of January; the last one is for evaluation."""
    return window_of_days(f"2026-01-{first:02d}", f"2026-01-{last:02d}", f"2026-01-{last:02d}", data_end)


def shop(root, days=DAYS):
    """A few exposures on each day, some with a click and a purchase."""
    shown = [exposure(f"{day}-{i}", f"{day} {8 + i:02d}:00", user=f"u{i % 4}") for day in days for i in range(12)]
    clicks = [event(f"{day}-{i}", f"{day} {8 + i:02d}:05") for day in days for i in (1, 2, 3)]
    bought = [event(f"{day}-{i}", f"{day} {8 + i:02d}:50", value=1.5) for day in days for i in (1, 3)]
    write_logs(root, "csv", shown, clicks, bought, days=days)
    return logs_config(root, "csv")


def same(one, other):
    """Whether two runs have the same examples and the same report, whatever was joined when."""
    return one.report == other.report and {s: sorted(r) for s, r in one.records.items()} == {
        s: sorted(r) for s, r in other.records.items()
    }


def joined_in(got):
    """Days of January that a run joined."""
    days = got.examples.get_string_custom_property("joined_days")
    return [int(day[-2:]) for day in days.split(",")] if days else []


class TestReuse:
    def test_the_same_window_again(self, tmp_path):
        logs = shop(tmp_path / "logs")
        first = run(tmp_path / "a", logs, (), window(3, 6), ATTRIBUTION, joined=tmp_path / "joined")
        again = run(tmp_path / "b", logs, (), window(3, 6), ATTRIBUTION, joined=tmp_path / "joined")
        assert joined_in(first) == [3, 4, 5, 6]
        assert joined_in(again) == []
        assert same(again, first)
        assert again.records == first.records
        assert first.report["examples"]["train"]["rows"] == 3 * 13  # a filler on each day

    def test_windows_that_overlap_share_days(self, tmp_path):
        logs = shop(tmp_path / "logs")
        joined = tmp_path / "joined"
        assert joined_in(run(tmp_path / "a", logs, (), window(4, 6), ATTRIBUTION, joined=joined)) == [4, 5, 6]
        later = run(tmp_path / "b", logs, (), window(5, 8), ATTRIBUTION, joined=joined)
        assert joined_in(later) == [7, 8]
        around = run(tmp_path / "c", logs, (), window(2, 10), ATTRIBUTION, joined=joined)
        assert joined_in(around) == [2, 3, 9, 10]
        assert same(around, run(tmp_path / "d", logs, (), window(2, 10), ATTRIBUTION))
        assert same(later, run(tmp_path / "e", logs, (), window(5, 8), ATTRIBUTION))

    def test_examples_are_the_joined_files_themselves(self, tmp_path):
        got = run(tmp_path / "a", shop(tmp_path / "logs"), (), window(3, 5), ATTRIBUTION)
        kept = {os.stat(f).st_ino for f in (tmp_path / "a/joined").rglob("examples-*")}
        used = [os.stat(f) for f in Path(got.examples.uri).rglob("data_tfrecord-*")]
        assert {f.st_ino for f in used} == kept
        assert {f.st_nlink for f in used} == {2}

    def test_where_links_cannot_be(self, tmp_path, monkeypatch):
        def no_link(source, target):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("components.log_example_gen.days.os.link", no_link)
        got = run(tmp_path / "a", shop(tmp_path / "logs"), (), window(3, 5), ATTRIBUTION)
        assert {os.stat(f).st_nlink for f in Path(got.examples.uri).rglob("data_tfrecord-*")} == {1}
        assert len(got.rows) == 3 * 12

    def test_another_configuration_is_another_day(self, tmp_path):
        logs = shop(tmp_path / "logs")
        for name, attribution, days in (("a", "2h", [3, 4]), ("b", "3h", [3, 4]), ("c", "2h", [])):
            got = run(
                tmp_path / name, logs, (), window(3, 4), attribution_config("30m", attribution), joined=tmp_path / "j"
            )
            assert joined_in(got) == days
        # A limit for rejected rows decides on nothing but whether a run stops.
        other = logs.model_copy(update={"max_rejected": 0.5})
        assert joined_in(run(tmp_path / "d", other, (), window(3, 4), ATTRIBUTION, joined=tmp_path / "j")) == []

    def test_days_whose_labels_are_not_final_are_joined_again(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        early = window(3, 6, "2026-01-06 12:00")
        first = run(tmp_path / "a", logs, (), early, ATTRIBUTION, joined=joined)
        assert first.report["logs"]["exposures"]["outcomes"]["not_mature"] == {"": 10}
        later = run(tmp_path / "b", logs, (), window(3, 6), ATTRIBUTION, joined=joined)
        assert joined_in(later) == [6]
        assert "not_mature" not in later.report["logs"]["exposures"]["outcomes"]

    def test_a_day_to_train_on_is_a_sample_and_one_to_evaluate_on_is_not(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        sampling = SamplingConfig(keep={"click": 0.3})
        first = run(tmp_path / "a", logs, (), window(3, 5), ATTRIBUTION, sampling, joined=joined)
        second = run(tmp_path / "b", logs, (), window(4, 6), ATTRIBUTION, sampling, joined=joined)
        assert joined_in(second) == [5, 6]  # the 5th was for evaluation
        assert same(second, run(tmp_path / "c", logs, (), window(4, 6), ATTRIBUTION, sampling))
        assert first.report["examples"]["eval"]["rows"] == 13
        assert second.report["examples"]["train"]["rows"] < 2 * 13
        assert second.report["logs"]["exposures"]["outcomes"]["sampled_out"][""] > 0


class TestChangedFiles:
    def test_a_late_file_changes_the_days_around_it_only(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        before = run(tmp_path / "a", logs, (), window(2, 11), ATTRIBUTION, joined=joined)
        assert before.rows["2026-01-06-5", "i1"]["click"] == [0]
        write_file(tmp_path / "logs/clicks/2026-01-07/late.csv", [event("2026-01-06-5", "2026-01-06 13:10")])
        after = run(tmp_path / "b", logs, (), window(2, 11), ATTRIBUTION, joined=joined)
        # Windows of 2.5 hours reach a day, causes of late events up to 20.5 hours back, and rows come a day late.
        assert joined_in(after) == [5, 6, 7, 8]
        assert after.rows["2026-01-06-5", "i1"]["click"] == [1]
        assert same(after, run(tmp_path / "c", logs, (), window(2, 11), ATTRIBUTION))
        changed = {k: v for k, v in after.rows.items() if v != before.rows[k]}
        assert set(changed) == {("2026-01-06-5", "i1")}

    def test_a_file_that_is_gone_or_written_anew(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        run(tmp_path / "a", logs, (), window(3, 9), ATTRIBUTION, joined=joined)
        path = tmp_path / "logs/purchases/2026-01-06/part-0.csv"
        path.write_text("request_id,item_id,time,value\n")
        after = run(tmp_path / "b", logs, (), window(3, 9), ATTRIBUTION, joined=joined)
        assert 6 in joined_in(after)
        assert not set(joined_in(after)) & {3, 9}
        assert same(after, run(tmp_path / "c", logs, (), window(3, 9), ATTRIBUTION))
        # What was joined from the earlier file is gone.
        assert len([*joined_folders(str(joined))]) == 7

    def test_ranges_between_days_that_are_kept(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        run(tmp_path / "a", logs, (), window(2, 11), ATTRIBUTION, joined=joined)
        for log, day in (("clicks", "03"), ("purchases", "09")):
            (tmp_path / "logs" / log / f"2026-01-{day}" / "part-0.csv").touch()
        after = run(tmp_path / "b", logs, (), window(2, 11), ATTRIBUTION, joined=joined)
        assert joined_in(after) == [2, 3, 4, 7, 8, 9, 10]
        assert same(after, run(tmp_path / "c", logs, (), window(2, 11), ATTRIBUTION))

    def test_rejected_rows_of_days_that_are_kept(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        write_file(tmp_path / "logs/clicks/2026-01-04/bad.csv", [event("x", 12)])
        first = run(tmp_path / "a", logs, (), window(3, 5), ATTRIBUTION, joined=joined)
        again = run(tmp_path / "b", logs, (), window(3, 5), ATTRIBUTION, joined=joined)
        assert joined_in(again) == []
        assert again.rejected == first.rejected
        assert [row["file"] for row in again.rejected] == ["clicks/2026-01-04/bad.csv"]

    def test_a_file_that_cannot_be_read_leaves_nothing(self, tmp_path):
        logs, joined = shop(tmp_path / "logs").model_copy(), tmp_path / "joined"
        path = tmp_path / "logs/clicks/2026-01-04/part-1.csv"
        path.write_bytes(b"\xff\xff\xff\n")
        with pytest.raises(UserError, match=r"clicks/2026-01-04/part-1.csv"):
            run(tmp_path / "a", logs, (), window(3, 5), ATTRIBUTION, joined=joined)
        assert not joined.exists()


class TestStore:
    def test_ranges(self):
        days = [date(2026, 1, d) for d in (9, 2, 3, 5, 6, 7)]
        found = [(a.day, b.day) for a, b in ranges(days)]
        assert found == [(2, 3), (5, 7), (9, 9)]
        assert ranges([]) == []

    def folder(self, path, content):
        path.mkdir(parents=True)
        (path / "examples-0").write_text(content)
        write_manifest(str(path), {"shards": {"examples-0": 1}, "content": content})
        return str(path)

    def test_the_second_of_two_runs_at_once_drops_its_own(self, tmp_path):
        place = str(tmp_path / "days/2026-01-01/x")
        for name in ("first", "second"):
            move_whole(self.folder(tmp_path / name, name), place, "shards", replace=False)
        assert read_folder(place, "shards")["content"] == "first"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["days"]

    def test_a_race_for_the_place(self, tmp_path, monkeypatch):
        place = tmp_path / "days/x"
        from components.log_example_gen import days

        rename = days.fileio.rename

        def late(source, target, overwrite=False):
            self.folder(place, "other")  # the other run is first, after this one has looked
            rename(source, target, overwrite)

        monkeypatch.setattr(days.fileio, "rename", late)
        move_whole(self.folder(tmp_path / "own", "own"), str(place), "shards", replace=False)
        assert read_folder(str(place), "shards")["content"] == "other"

    def test_a_folder_that_lacks_a_file_does_not_count(self, tmp_path):
        place = self.folder(tmp_path / "days/x", "half")
        (tmp_path / "days/x/examples-0").unlink()
        assert read_folder(place, "shards") is None
        move_whole(self.folder(tmp_path / "own", "whole"), place, "shards", replace=False)
        assert read_folder(place, "shards")["content"] == "whole"
        assert [p.name for p in (tmp_path / "days").iterdir()] == ["x"]

    def test_a_lost_file_of_examples_is_joined_again(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        first = run(tmp_path / "a", logs, (), window(3, 5), ATTRIBUTION, joined=joined)
        next(joined.glob("*/days/2026-01-04/*/examples-*")).unlink()
        again = run(tmp_path / "b", logs, (), window(3, 5), ATTRIBUTION, joined=joined)
        assert joined_in(again) == [4]
        assert same(again, first)


class TestRetention:
    def test_old_days_are_removed_after_a_run(self, tmp_path):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        run(tmp_path / "a", logs, (), window(2, 5), ATTRIBUTION, joined=joined)
        got = run(tmp_path / "b", logs, (), window(7, 9), ATTRIBUTION, joined=joined, flags=["--keep_joined_days=4"])
        assert sorted({d.day for d, _ in joined_folders(str(joined))}) == [5, 7, 8, 9]
        # Files of the days that are left, and of those that reach into them.
        files = sorted(int(p.name[-2:]) for p in joined.glob("*/files/*"))
        assert files[0] == 4 and files[-1] == 11
        assert len(got.rows) == 3 * 12

    def test_of_every_configuration(self, tmp_path):
        for configuration in ("x", "y"):
            for day in ("2026-01-01", "2026-01-09"):
                TestStore().folder(tmp_path / configuration / "days" / day / "z", day)
                (tmp_path / configuration / "files" / day).mkdir(parents=True)
        removed = drop_older(str(tmp_path), date(2026, 1, 9), date(2026, 1, 8))
        assert removed == [date(2026, 1, 1)]
        assert sorted(p.name for p in tmp_path.glob("*/*/*")) == ["2026-01-09"] * 4


@pytest.fixture
def run_apart(warm_python, tmp_path):
    """A run on the 3rd to the 6th in a process of its own; gives its exit code and what it printed on errors."""

    def run(out, place="none", *flags):
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        command = ["python", str(SCRIPT), str(tmp_path), out, place, *flags]
        done = warm_python.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=REPOSITORY)
        return done.returncode, done.stderr

    return run


TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.mark.slow
class TestKills:
    @pytest.mark.parametrize(("place", "whole"), [("bucket", []), ("commit", [3])])
    def test_the_run_in_the_middle_of_a_join(self, tmp_path, run_apart, place, whole):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        code, _ = run_apart("killed", place, "--join_memory_gib=0.000005")
        assert code == -signal.SIGKILL
        assert list((tmp_path / "killed/report/partial").rglob("*.arrow"))
        assert not (tmp_path / "killed/examples").exists()
        # The days that are there are whole, and the next run uses them.
        assert [day.day for day, _ in joined_folders(str(joined))] == whole
        again = run(tmp_path / "again", logs, (), window(3, 6), ATTRIBUTION, joined=joined)
        assert joined_in(again) == [day for day in (3, 4, 5, 6) if day not in whole]
        assert same(again, run(tmp_path / "calm", logs, (), window(3, 6), ATTRIBUTION))

    @pytest.mark.parametrize("place", ["starting-worker", "working-worker"])
    def test_a_worker(self, tmp_path, run_apart, place):
        logs, joined = shop(tmp_path / "logs"), tmp_path / "joined"
        code, errors = run_apart("killed", place, *TWO_WORKERS, "--join_memory_gib=0.00001")
        assert code == 1
        assert "a worker process of Beam was ended from outside" in errors.splitlines()[-1]
        assert not joined.exists() and not (tmp_path / "killed/examples").exists()
        again = run(tmp_path / "again", logs, (), window(3, 6), ATTRIBUTION, joined=joined)
        assert same(again, run(tmp_path / "calm", logs, (), window(3, 6), ATTRIBUTION))


@pytest.mark.slow
def test_worker_processes_give_the_same(tmp_path, run_apart):
    logs = shop(tmp_path / "logs")
    code, errors = run_apart("apart", "none", *TWO_WORKERS, "--join_memory_gib=0.00001")
    assert code == 0, errors
    calm = run(tmp_path / "calm", logs, (), window(3, 6), ATTRIBUTION)
    assert json.loads((tmp_path / "apart/report/report.json").read_text()) == calm.report
    for split, records in calm.records.items():
        assert sorted(read_records(tmp_path / f"apart/examples/Split-{split}")) == sorted(records)
    assert len(list((tmp_path / "apart/examples/Split-train").iterdir())) > 3  # more than one of each day
