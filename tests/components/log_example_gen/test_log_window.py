"""Days, files and fingerprints."""

import os
import zoneinfo
from datetime import date, datetime, timedelta
from typing import ClassVar

import pytest

from components.log_example_gen.window import input_files, inputs_fingerprint, resolve_window
from models.section import UserError
from tests.components.log_example_gen.log_files import (
    attribution_config,
    event,
    exposure,
    logs_config,
    ms,
    window_config,
    window_of_days,
    write_file,
)

DAYS = [str(date(2026, 1, 1) + timedelta(days=i)) for i in range(8)]


def write_days(root, days=DAYS, form="csv"):
    for day in days:
        write_file(root / "exposures" / day / f"a.{form}", [exposure("r", f"{day} 10:00")])
        write_file(root / "clicks" / day / f"a.{form}", [event("r", f"{day} 10:00")])
        write_file(root / "purchases" / day / f"a.{form}", [event("r", f"{day} 10:00", value=1.5)])
    return logs_config(root, form)


class TestResolve:
    def test_latest_is_the_last_day_with_final_labels(self, tmp_path):
        logs = write_days(tmp_path)
        window = resolve_window(logs, attribution_config("30m", "3d"), window_config(train_days=2, eval_days=1))
        # The data end with the 8th; labels of the 4th are final on the 8th at 00:30, of the 5th only on the 9th.
        assert (window.first_day, window.first_eval_day, window.last_day) == (
            date(2026, 1, 2), date(2026, 1, 4), date(2026, 1, 4),
        )
        assert window.data_end_ms == ms("2026-01-08 00:30")

    def test_labels_final_exactly_at_the_end(self, tmp_path):
        logs = write_days(tmp_path)
        window = resolve_window(logs, attribution_config("12h", "12h"), window_config())
        assert window.last_day == date(2026, 1, 7)
        assert window.data_end_ms == ms("2026-01-09 00:00")

    def test_days_of_a_zone(self, tmp_path):
        write_days(tmp_path)
        logs = logs_config(tmp_path, "csv", timezone="America/New_York")
        window = resolve_window(logs, attribution_config("12h", "12h"), window_config())
        assert window.data_end_ms == ms("2026-01-09 05:00")

    def test_new_days_do_not_change_a_finished_window(self, tmp_path):
        logs = write_days(tmp_path, DAYS[:6])
        config = window_config(last_day="2026-01-03", train_days=2)
        attribution = attribution_config("30m", "1d")
        before = resolve_window(logs, attribution, config), inputs_fingerprint(
            logs, attribution, resolve_window(logs, attribution, config)
        )
        write_days(tmp_path, DAYS[6:])
        window = resolve_window(logs, attribution, config)
        assert (window, inputs_fingerprint(logs, attribution, window)) == before

    def test_given_day_without_final_labels(self, tmp_path):
        logs = write_days(tmp_path)
        window = resolve_window(logs, attribution_config("30m", "3d"), window_config(last_day="2026-01-08"))
        assert window.last_day == date(2026, 1, 8)
        assert window.data_end_ms == ms("2026-01-09 00:00")

    def test_too_few_days_names_the_last_one_missing(self, tmp_path):
        logs = write_days(tmp_path, DAYS[2:])
        with pytest.raises(UserError, match=r"2026-01-02: '.*exposures/2026-01-02/\*\.csv'") as error:
            resolve_window(logs, attribution_config("30m", "3d"), window_config(train_days=3))
        assert "3 training and 1 evaluation days up to 2026-01-04 begin on 2026-01-01" in str(error.value)

    def test_no_day_with_final_labels(self, tmp_path):
        logs = write_days(tmp_path, DAYS[:2])
        with pytest.raises(UserError, match=r"no day has final labels.*3 days, 0:30:00.*end with 2026-01-02"):
            resolve_window(logs, attribution_config("30m", "3d"), window_config())

    def test_no_files(self, tmp_path):
        with pytest.raises(UserError, match=r"exposures: no file matches '.*exposures/\{date\}/\*\.csv'"):
            resolve_window(logs_config(tmp_path, "csv"), attribution_config(), window_config())

    def test_names_that_are_no_days(self, tmp_path):
        logs = write_days(tmp_path)
        for name in ("2026-99-99", "9999-aa-bb"):
            write_file(tmp_path / "exposures" / name / "a.csv", [exposure("r", 0)])
        write_file(tmp_path / "exposures" / "2027-01-01" / "_temporary.csv", [exposure("r", 0)])
        assert resolve_window(logs, attribution_config("30m", "3d"), window_config()).last_day == date(2026, 1, 4)

    def test_linked_folders_under_an_odd_root(self, tmp_path):
        write_days(tmp_path / "far")
        root = tmp_path / "logs [1] *"
        for log in ("exposures", "clicks", "purchases"):
            (root / log).mkdir(parents=True)
            for day in DAYS:
                (root / log / day).symlink_to(tmp_path / "far" / log / day)
        logs = logs_config(root, "csv")
        assert resolve_window(logs, attribution_config("30m", "3d"), window_config()).last_day == date(2026, 1, 4)

    def test_date_twice_in_the_path(self, tmp_path):
        for day in DAYS:
            for log in ("clicks", "purchases"):
                write_file(tmp_path / log / day / "a.csv", [event("r", f"{day} 10:00", value=1)])
            write_file(tmp_path / f"x-{day}" / f"e-{day}.csv", [exposure("r", f"{day} 10:00")])
        write_file(tmp_path / "x-2026-01-09" / "e-2026-01-10.csv", [exposure("r", 0)])
        logs = logs_config(tmp_path, "csv", exposures={"path": "x-{date}/e-{date}.csv"})
        assert resolve_window(logs, attribution_config("30m", "3d"), window_config()).last_day == date(2026, 1, 4)


class TestHours:
    """Logs with a file per hour."""

    HOURLY: ClassVar = {"path": "exposures/{date}/{hour}/*.csv"}

    def write_hours(self, root, last_hour=23, zone="UTC", days=DAYS[:4]):
        write_days(root, days)
        for day in days:
            (root / "exposures" / day / "a.csv").unlink()
            for hour in range(24 if day != days[-1] else last_hour + 1):
                row = exposure(f"r{day}{hour}", f"{day} 10:00")
                write_file(root / "exposures" / day / f"{hour:02d}" / "a.csv", [row])
        return logs_config(root, "csv", timezone=zone, exposures=self.HOURLY)

    def resolve(self, logs, **config):
        return resolve_window(logs, attribution_config("30m", "30m"), window_config(**config))

    def test_data_end_with_the_last_hour(self, tmp_path):
        window = self.resolve(self.write_hours(tmp_path, last_hour=0), last_day="2026-01-02")
        assert window.data_end_ms == ms("2026-01-03 01:00")
        # The labels of the 3rd are final at 01:00 on the 4th.
        assert self.resolve(self.write_hours(tmp_path / "b", last_hour=0)).last_day == date(2026, 1, 3)
        logs = self.write_hours(tmp_path / "c", last_hour=0)
        assert resolve_window(logs, attribution_config("30m", "31m"), window_config()).last_day == date(2026, 1, 2)

    def test_missing_hour_stops_or_not(self, tmp_path):
        logs = self.write_hours(tmp_path)
        for hour in ("05", "22"):
            (tmp_path / "exposures/2026-01-02" / hour / "a.csv").unlink()
        with pytest.raises(UserError) as error:
            self.resolve(logs)
        assert str(error.value) == (
            "exposures: no file for hour 05 of 2026-01-02 (and 1 more hours): none matches "
            f"'{tmp_path}/exposures/2026-01-02/05/*.csv'; missing_hours: allow, in the configuration of the log, "
            "lets a run go on without it"
        )
        allowed = logs_config(tmp_path, "csv", exposures={**self.HOURLY, "missing_hours": "allow"})
        assert self.resolve(allowed).last_day == date(2026, 1, 3)

    def test_hours_outside_of_the_window_may_be_missing(self, tmp_path):
        logs = self.write_hours(tmp_path, last_hour=1)
        (tmp_path / "exposures/2026-01-01/07/a.csv").unlink()
        assert self.resolve(logs).last_day == date(2026, 1, 3)

    def test_two_files_of_an_hour(self, tmp_path):
        logs = self.write_hours(tmp_path)
        write_file(tmp_path / "exposures/2026-01-02/05/b.csv", [exposure("more", "2026-01-02 05:10")])
        attribution = attribution_config("30m", "30m")
        files = input_files(logs, attribution, self.resolve(logs, last_day="2026-01-03"))
        of_hour = [f.relative for f in files if (f.log, f.day, f.hour) == ("exposures", date(2026, 1, 2), 5)]
        assert of_hour == ["exposures/2026-01-02/05/a.csv", "exposures/2026-01-02/05/b.csv"]

    @pytest.mark.parametrize(
        ("day", "hours", "lacking"),
        [("2026-03-29", 23, 2), ("2026-10-25", 24, None), ("2026-06-01", 24, None)],
    )
    def test_days_on_which_clocks_change(self, tmp_path, day, hours, lacking):
        days = [str(date.fromisoformat(day) + timedelta(days=i)) for i in (-1, 0, 1)]
        logs = self.write_hours(tmp_path, zone="Europe/Berlin", days=days)
        assert len(list((tmp_path / "exposures" / day).iterdir())) == 24
        if lacking is not None:
            (tmp_path / "exposures" / day / f"{lacking:02d}" / "a.csv").unlink()  # nobody has ever seen that hour
        config = {"last_day": day}
        attribution, zone = attribution_config("30m", "30m"), zoneinfo.ZoneInfo("Europe/Berlin")
        window = self.resolve(logs, **config)
        files = [f for f in input_files(logs, attribution, window) if f.day == date.fromisoformat(day)]
        assert len({f.hour for f in files if f.log == "exposures"}) == hours
        for hour in {0, 1, 2, 3, 23} - {lacking}:
            path = tmp_path / "exposures" / day / f"{hour:02d}" / "a.csv"
            path.rename(tmp_path / "kept")
            with pytest.raises(UserError, match=f"no file for hour {hour:02d} of {day}"):
                self.resolve(logs, **config)
            (tmp_path / "kept").rename(path)
        # The data end with the hour 02 of the day: with the later one, where it comes twice.
        for hour in range(3, 24):
            (tmp_path / "exposures" / day / f"{hour:02d}" / "a.csv").unlink()
        (tmp_path / "exposures" / days[2]).rename(tmp_path / "exposures/away")
        last = 1 if lacking == 2 else 2
        end = datetime.fromisoformat(f"{day} {last:02d}:59:59").replace(tzinfo=zone, fold=1).timestamp() + 1
        open_end = self.resolve(
            logs_config(tmp_path, "csv", timezone="Europe/Berlin", exposures={**self.HOURLY, "missing_hours": "allow"}),
            **config,
        )
        assert open_end.data_end_ms == round(end * 1000)


class TestInputs:
    WINDOW = window_of_days("2026-01-03", "2026-01-04", "2026-01-04", "2026-01-06 00:00")

    def days(self, logs, attribution, window=None):
        files = input_files(logs, attribution, window or self.WINDOW)
        return {log: [f.day.day for f in files if f.log == log] for log in ("exposures", "click", "purchase")}

    def test_margins_before_and_after(self, tmp_path):
        logs = write_days(tmp_path)
        # Windows of a day in all, and 18 hours for repeats and late causes before; after, the lateness too.
        assert self.days(logs, attribution_config("12h", "12h"))["click"] == [1, 2, 3, 4, 5, 6]
        assert self.days(logs, attribution_config("3h", "3h"))["click"] == [2, 3, 4, 5, 6]
        # Half an hour more than a day reaches another one.
        assert self.days(logs, attribution_config("30m", "1d"))["purchase"] == [1, 2, 3, 4, 5, 6, 7]
        on_time = logs.model_copy(update={"lateness_days": 0})
        assert self.days(on_time, attribution_config("3h", "3h"))["exposures"] == [2, 3, 4, 5]

    @pytest.mark.parametrize("log", ["exposures", "clicks", "purchases"])
    def test_missing_day(self, tmp_path, log):
        logs = write_days(tmp_path)
        (tmp_path / log / "2026-01-03" / "a.csv").unlink()
        with pytest.raises(UserError, match=rf"no file for 2026-01-03: none matches '.*{log}/2026-01-03/\*\.csv'"):
            self.days(logs, attribution_config())

    def test_margin_days_may_be_missing(self, tmp_path):
        logs = write_days(tmp_path, DAYS[2:4])
        assert self.days(logs, attribution_config())["click"] == [3, 4]

    @pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
    def test_empty_day_of_exposures(self, tmp_path, form):
        logs = write_days(tmp_path, form=form)
        write_file(tmp_path / "exposures/2026-01-04" / f"a.{form}", [], ["request_id"])
        with pytest.raises(UserError, match=rf"exposures: the log of 2026-01-04 is empty.*2026-01-04/\*\.{form}'"):
            self.days(logs, attribution_config())

    def test_empty_event_log(self, tmp_path):
        logs = write_days(tmp_path)
        write_file(tmp_path / "clicks/2026-01-03/a.csv", [], ["request_id"])
        assert self.days(logs, attribution_config())["click"]
        write_file(tmp_path / "clicks/2026-01-04/a.csv", [], ["request_id"])
        with pytest.raises(UserError, match=r"click: the log is empty from 2026-01-03 to 2026-01-04"):
            self.days(logs, attribution_config())

    def test_fingerprint_follows_the_files(self, tmp_path):
        logs = write_days(tmp_path / "a")
        attribution = attribution_config()

        def fingerprint(of=logs):
            return inputs_fingerprint(of, attribution, self.WINDOW)

        first = fingerprint()
        assert first == fingerprint()
        path = tmp_path / "a/clicks/2026-01-04/a.csv"
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
        assert fingerprint() != first
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert fingerprint() == first
        (tmp_path / "a/clicks/2026-01-04/late.csv").write_text("x\n")
        assert fingerprint() != first
        (tmp_path / "a/clicks/2026-01-04/late.csv").unlink()
        (tmp_path / "a").rename(tmp_path / "b")
        assert fingerprint(logs_config(tmp_path / "b", "csv")) == first
