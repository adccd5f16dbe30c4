"""Casts of columns: the same value from every type that it comes in."""

from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from components.log_example_gen.columns import as_list, as_number, as_text, as_time, type_name
from tests.components.log_example_gen.log_files import ms


def cast(result):
    values, bad = result
    return values.to_pylist(), bad.tolist()


class TestText:
    @pytest.mark.parametrize(
        ("column", "values"),
        [
            (pa.array(["a", "", "日本 é", None]), ["a", "", "日本 é", None]),
            (pa.array(["a", None], pa.large_string()), ["a", None]),
            (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
            (pa.array([b"a", "é".encode(), None]), ["a", "é", None]),
            (pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
            (pa.array([0, -7, 2**63 - 1, None]), ["0", "-7", "9223372036854775807", None]),
            (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
            (pa.array([True, False, None]), ["true", "false", None]),
            (pa.array([3.0, -0.0, None, float("nan")]), ["3", "0", None, None]),
            (pa.array([Decimal("12"), None], pa.decimal128(20, 0)), ["12", None]),
            (pa.array([date(2026, 1, 2)]), ["2026-01-02"]),
            (pa.array([None, None]), [None, None]),
        ],
    )
    def test_fits(self, column, values):
        assert cast(as_text(column)) == (values, [False] * len(values))

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([1.5, None]),
            pa.array([2.0**53, None]),  # may have been any of two whole numbers
            pa.array([float("inf"), None]),
            pa.array([b"\xff", None]),
            pa.array([["a"], None]),
            pa.array([{"a": 1}, None]),
        ],
    )
    def test_does_not_fit(self, column):
        assert cast(as_text(column)) == ([None, None], [True, False])


class TestNumber:
    @pytest.mark.parametrize(
        ("column", "values"),
        [
            (pa.array([0, -3, None]), [0.0, -3.0, None]),
            (pa.array([0.0, 1.5, None, float("nan")]), [0.0, 1.5, None, None]),
            (pa.array([1.5, None], pa.float32()), [1.5, None]),
            (pa.array([True, False]), [1.0, 0.0]),
            (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), [1.5]),
            (pa.array(["0", "-1.5", "1e3", ".5", "5.", "NaN", None]), [0.0, -1.5, 1000.0, 0.5, 5.0, None, None]),
        ],
    )
    def test_fits(self, column, values):
        assert cast(as_number(column)) == (values, [False] * len(values))

    @pytest.mark.parametrize(
        "column",
        [
            pa.array(["abc", "", " 1", "1,5", "0x10", "1_000", "inf", "1e39", None]),
            pa.array([float("inf"), -float("inf"), 1e39, None]),  # 1e39 is infinite as a float32
            pa.array([[1.0], None]),
            pa.array([datetime(2026, 1, 1), None]),
        ],
    )
    def test_does_not_fit(self, column):
        n = len(column)
        assert cast(as_number(column)) == ([None] * n, [True] * (n - 1) + [False])

    def test_each_value_is_judged_alone(self):
        assert cast(as_number(pa.array(["1", "x", "2"]))) == ([1.0, None, 2.0], [False, True, False])


class TestList:
    @pytest.mark.parametrize(
        ("column", "separator", "values"),
        [
            (pa.array([["a", "b"], [], None, [None, "c"]]), None, [["a", "b"], [], None, ["c"]]),
            (pa.array([[1, 2], [3]]), None, [["1", "2"], ["3"]]),
            (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), None, [["1", "2"], None]),
            (pa.array([["a"]], pa.large_list(pa.string())), None, [["a"]]),
            (pa.array(["a|b", "", None, "|c"]), "|", [["a", "b"], [], None, ["c"]]),
            (pa.array([["a", "b"]]), "|", [["a", "b"]]),
            (pa.array([None, None]), None, [None, None]),
        ],
    )
    def test_fits(self, column, separator, values):
        result = values if column.type != pa.null() else [None] * len(column)
        if column.type == pa.null() and separator is None:
            column = pa.array([None] * len(column), pa.list_(pa.string()))
        assert cast(as_list(column, separator)) == (result, [False] * len(values))

    @pytest.mark.parametrize("column", [pa.array(["a|b"]), pa.array([1.5]), pa.array([7]), pa.array([[1.5, 2.0]])])
    def test_does_not_fit(self, column):
        assert cast(as_list(column, None)) == ([None], [True])

    def test_slice_of_a_longer_array(self):
        column = pa.array([["a"], ["b", "c"], None, ["d"]]).slice(1, 3)
        assert cast(as_list(column, None)) == ([["b", "c"], None, ["d"]], [False] * 3)


class TestTime:
    NOON = ms("2026-01-02 12:00:00.123")

    @pytest.mark.parametrize(
        ("column", "unit"),
        [
            (pa.array([NOON]), "ms"),
            (pa.array([NOON * 1000 + 999]), "us"),
            (pa.array([NOON * 1_000_000 + 999_999]), "ns"),
            (pa.array([NOON / 1000]), "s"),
            (pa.array([str(NOON)]), "ms"),
            (pa.array([f"{NOON / 1000:.3f}"]), "s"),
            (pa.array(["2026-01-02T12:00:00.123Z"]), "iso8601"),
            (pa.array(["2026-01-02 12:00:00.1239999+00:00"]), "iso8601"),
            (pa.array(["2026-01-02T17:30:00,123+0530"]), "iso8601"),
            (pa.array(["2026-01-02T09:00:00.123-03:00"]), "iso8601"),
            (pa.array(["2026-01-02T13:00:00.123"]), "iso8601"),  # in the zone of the logs
            (pa.array([NOON], pa.timestamp("ms", "UTC")), "s"),  # a timestamp brings its unit
            (pa.array([NOON * 1000], pa.timestamp("us", "America/New_York")), "ms"),
            (pa.array([NOON + 3_600_000], pa.timestamp("ms")), "ms"),  # wall-clock time of the zone
        ],
    )
    def test_same_instant(self, column, unit):
        assert cast(as_time(column, unit, "Europe/Berlin")) == ([self.NOON], [False])

    @pytest.mark.parametrize(
        ("column", "unit"),
        [
            (pa.array([NOON // 1000]), "ms"),  # seconds taken for ms: January 1970
            (pa.array([NOON]), "s"),  # ms taken for seconds: far in the future
            (pa.array([0]), "ms"),
            (pa.array([ms("2100-01-01 00:00")]), "ms"),
            (pa.array([-(2**63)]), "s"),
            (pa.array([1e300]), "s"),
            (pa.array(["soon"]), "ms"),
            (pa.array(["9" * 30]), "ms"),
            (pa.array([True]), "ms"),
            (pa.array([[NOON]]), "ms"),
            (pa.array([NOON]), "iso8601"),
            (pa.array(["2026-02-30T12:00:00Z"]), "iso8601"),
            (pa.array(["2026-01-02"]), "iso8601"),
            (pa.array(["2026-01-02T25:00:00Z"]), "iso8601"),
        ],
    )
    def test_no_time(self, column, unit):
        assert cast(as_time(column, unit, "UTC")) == ([None], [True])

    def test_missing_is_not_bad(self):
        for column in (pa.array([None, self.NOON]), pa.array([None, self.NOON], pa.timestamp("ms"))):
            assert cast(as_time(column, "ms", "UTC")) == ([None, self.NOON], [False, False])
        assert cast(as_time(pa.array([None, "2026-01-02T12:00:00.123Z"]), "iso8601", "UTC"))[1] == [False, False]
        assert cast(as_time(pa.array([float("nan")]), "s", "UTC")) == ([None], [False])

    def test_clock_changes(self):
        times = pa.array(["2026-03-29 01:59:59", "2026-03-29 02:30:00", "2026-03-29 03:00:00", "2026-10-25 02:30:00"])
        values, bad = cast(as_time(times, "iso8601", "Europe/Berlin"))
        # 02:30 is skipped in March, and is 03:30 by the old clock; in October it comes twice.
        assert [v - ms("2026-03-29 00:59:59") for v in values[:3]] == [0, 1_801_000, 1_000]
        assert values[3] == ms("2026-10-25 00:30:00")
        assert not any(bad)

    def test_each_value_is_judged_alone(self):
        column = pa.array(["x", str(self.NOON), f"{self.NOON}.0", None])
        assert cast(as_time(column, "ms", "UTC")) == ([None, self.NOON, self.NOON, None], [True, False, False, False])


def test_names_of_types():
    named = [
        (pa.array(["a"]), "text"),
        (pa.array(["a"]).dictionary_encode(), "text"),
        (pa.array([["a"]]), "list"),
        (pa.array([{"a": 1}]), "object"),
        (pa.array([1]), "int64"),
    ]
    assert [type_name(column) for column, _ in named] == [name for _, name in named]
