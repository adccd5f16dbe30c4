"""Casts of columns: the same value from every type that it comes in."""

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log_example_gen.columns import as_list, as_number, as_text, as_time, other_unit, type_name
from tests.components.log_example_gen.log_files import ms


def cast(result):
    """Values, and which of them do not fit."""
    values, faults = result
    bad = [any(mask[i] for mask in faults.values()) for i in range(len(values))]
    assert all(mask.any() for mask in faults.values())
    return values.to_pylist(), bad


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

    def test_below_zero(self):
        column = pa.array([-1.5, 0.0, -0.0, None, 2.0])
        values, faults = as_number(column, negative=False)
        assert values.to_pylist() == [None, 0.0, -0.0, None, 2.0]
        assert {reason: mask.tolist() for reason, mask in faults.items()} == {
            "negative_value": [True, False, False, False, False]
        }
        assert cast(as_number(column)) == (column.to_pylist(), [False] * 5)

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(["1", "-1.5", "1e400", "1e-400", "nan", "nan(a)", "infinity", "inf", "x", None])))
    def test_text_in_any_company(self, texts):
        together = as_number(pa.array(texts, pa.string()))
        alone = [as_number(pa.array([text], pa.string())) for text in texts]
        assert together.values.to_pylist() == [cast.values[0].as_py() for cast in alone]
        bad = together.faults.get("bad_type", [False] * len(texts))
        assert list(bad) == ["bad_type" in cast.faults for cast in alone]

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
        ("column", "unit", "reason"),
        [
            (pa.array([NOON // 1000]), "ms", "time_out_of_range"),  # seconds taken for ms: January 1970
            (pa.array([NOON]), "s", "time_out_of_range"),  # ms taken for seconds: far in the future
            (pa.array([0]), "ms", "time_out_of_range"),
            (pa.array([-1]), "ms", "time_out_of_range"),
            (pa.array([ms("2000-01-01 00:00") - 1]), "ms", "time_out_of_range"),
            (pa.array([ms("2100-01-01 00:00")]), "ms", "time_out_of_range"),
            (pa.array([ms("2100-01-01 00:00")], pa.timestamp("ms")), "ms", "time_out_of_range"),
            (pa.array([-(2**63)]), "s", "time_out_of_range"),
            (pa.array([1e300]), "s", "time_out_of_range"),
            (pa.array(["9" * 30]), "ms", "time_out_of_range"),
            (pa.array(["1e400"]), "ms", "time_out_of_range"),
            (pa.array(["1970-01-01T00:00:00Z"]), "iso8601", "time_out_of_range"),
            (pa.array(["1969-12-31T23:59:59.999Z"]), "iso8601", "time_out_of_range"),
            (pa.array(["9999-12-31 00:00:00"]), "iso8601", "time_out_of_range"),
            (pa.array(["9999-12-31T00:00:00 Z"]), "iso8601", "time_out_of_range"),
            (pa.array(["soon"]), "ms", "bad_time"),
            (pa.array(["0x19b76fea47b"]), "ms", "bad_time"),
            (pa.array(["nan"]), "ms", "bad_time"),
            (pa.array([True]), "ms", "bad_time"),
            (pa.array([[NOON]]), "ms", "bad_time"),
            (pa.array([NOON]), "iso8601", "bad_time"),
            (pa.array(["2026-02-30T12:00:00Z"]), "iso8601", "bad_time"),
            (pa.array(["2026-01-02"]), "iso8601", "bad_time"),
            (pa.array(["2026-01-02T12Z"]), "iso8601", "bad_time"),
            (pa.array(["2026-01-02T25:00:00Z"]), "iso8601", "bad_time"),
        ],
    )
    def test_no_time(self, column, unit, reason):
        result = as_time(column, unit, "UTC")
        assert cast(result) == ([None], [True])
        assert list(result.faults) == [reason]

    def test_the_unit_that_was_meant(self):
        noon = self.NOON // 1000
        assert other_unit(pa.array([noon, noon * 1000, noon * 10**6, 7]), "ns") == ["s", "ms", "us", ""]
        assert other_unit(pa.array([str(noon)]), "ms") == ["s"]

    @settings(deadline=None)
    @given(st.lists(st.sampled_from([
        "2026-01-02T12:00:00Z", "2026-01-02 12:00:00.5+01:00", "2026-01-02T12:00-0330", "2026-01-02T12:00:00,25Z",
        "2026-01-02T12:00:00.1234567 z", "2026-01-02T12:00:00", "2026-03-29 02:30:00", "2026-02-30T12:00:00Z", "soon",
        "1970-01-01T00:00:00Z", "9999-12-31T00:00:00Z", "", None,
    ]), min_size=1, max_size=6))
    def test_iso8601_in_any_company(self, texts):
        def one_by_one(text):
            values, faults = as_time(pa.array([text], pa.string()), "iso8601", "Europe/Berlin")
            return values[0].as_py(), list(faults)

        values, faults = as_time(pa.array(texts, pa.string()), "iso8601", "Europe/Berlin")
        together = [(v, [r for r, mask in faults.items() if mask[i]]) for i, v in enumerate(values.to_pylist())]
        assert together == [one_by_one(text) for text in texts]

    @pytest.mark.parametrize("text", [
        "2026-01-02T12:00:00Z", "2026-01-02 12:00:00.5+01:00", "2026-01-02T12:00-03:30",
        "2026-01-02T23:59:59.123456+00:00", "2024-02-29T00:00:00-12:00",
    ])
    def test_iso8601_as_python_reads_it(self, text):
        expected = datetime.fromisoformat(text.replace("Z", "+00:00").replace(".5+", ".500+"))
        whole = expected - datetime(1970, 1, 1, tzinfo=timezone.utc)
        for company in ([], ["soon"]):  # alone, and where the fast way is barred
            values = as_time(pa.array([text, *company]), "iso8601", "UTC").values
            assert values[0].as_py() == whole // timedelta(milliseconds=1)

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
