"""Paths with dates in them."""

import re
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.log_example_gen.paths import PathPattern

DAY = date(2026, 1, 2)


@pytest.mark.parametrize(
    ("text", "path", "day_glob", "any_glob"),
    [
        ("e/{date}/*.csv", "e/2026-01-02/a.csv", "e/2026-01-02/*.csv", "e/????-??-??/*.csv"),
        ("e-{date:%Y%m%d}.csv", "e-20260102.csv", "e-20260102.csv", "e-????????.csv"),
        ("{date:%Y}/{date:%m}/{date:%d}/?.csv", "2026/01/02/a.csv", "2026/01/02/?.csv", "????/??/??/?.csv"),
        ("{date:%Y/%m}/{date}.csv", "2026/01/2026-01-02.csv", "2026/01/2026-01-02.csv", "????/??/????-??-??.csv"),
        ("100%/{date}", "100%/2026-01-02", "100%/2026-01-02", "100%/????-??-??"),
    ],
)
def test_days(text, path, day_glob, any_glob):
    pattern = PathPattern.parse(text)
    assert not pattern.hourly
    assert pattern.match(path) == (DAY, None)
    assert pattern.glob(DAY) == day_glob
    assert pattern.glob() == any_glob


@pytest.mark.parametrize(
    ("text", "path", "day_glob", "hour_glob"),
    [
        ("{date}/{hour}/*.csv", "2026-01-02/07/a.csv", "2026-01-02/??/*.csv", "2026-01-02/07/*.csv"),
        ("e/{date:%Y%m%d%H}.csv", "e/2026010207.csv", "e/20260102??.csv", "e/2026010207.csv"),
        ("{date}/{hour}-{hour}.csv", "2026-01-02/07-07.csv", "2026-01-02/??-??.csv", "2026-01-02/07-07.csv"),
        ("dt={date}/h={hour}/*", "dt=2026-01-02/h=07/x", "dt=2026-01-02/h=??/*", "dt=2026-01-02/h=07/*"),
    ],
)
def test_hours(text, path, day_glob, hour_glob):
    pattern = PathPattern.parse(text)
    assert pattern.hourly
    assert pattern.match(path) == (DAY, 7)
    assert pattern.glob(DAY) == day_glob
    assert pattern.glob(DAY, 7) == hour_glob


@pytest.mark.parametrize(
    "path",
    ["2026-01-02/24/a", "2026-02-30/01/a", "2026-01-02/7/a", "2026-01-02/07/b/a", "x2026-01-02/07/a"],
)
def test_no_match(path):
    assert PathPattern.parse("{date}/{hour}/*").match(path) is None


def test_one_day_in_all_places():
    pattern = PathPattern.parse("{date}/{date:%Y%m%d}.csv")
    assert pattern.match("2026-01-02/20260102.csv") == (DAY, None)
    assert pattern.match("2026-01-02/20260103.csv") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clicks/*.csv", "expected '{date}' where the day"),
        ("{hour}/*.csv", "expected '{date}' where the day"),
        ("{date:%Y%m}/*.csv", "expected '{date}' where the day"),
        ("{date:%y%m%d}/*.csv", "expected %Y, %m, %d or %H in a date, got '%y'"),
        ("{day}/{date}/*.csv", "expected {date}, {hour} or a form such as {date:%Y%m%d}, got '{day}'"),
        ("{hour:%I}/{date}/*.csv", "got '{hour:%I}'"),
        ("{date/*.csv", "got '{date/*.csv'"),
    ],
)
def test_bad_patterns(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PathPattern.parse(text)


@given(
    st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)),
    st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%Y/%m/%d", "%Y%m%d%H", "%Y/%m/%d/%H", "%H of %Y-%m-%d"]),
)
def test_what_strftime_writes_is_read(moment, form):
    pattern = PathPattern.parse(f"a+b/{{date:{form}}}.csv")
    path = f"a+b/{moment.strftime(form)}.csv"
    hour = moment.hour if "%H" in form else None
    assert pattern.match(path) == (moment.date(), hour)
    assert pattern.glob(moment.date(), hour) == path
