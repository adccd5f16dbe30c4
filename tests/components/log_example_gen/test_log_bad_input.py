"""Bad input, a case each: what becomes of its rows, with the reason, and that none is lost.

Each case adds a file to sound logs and runs the component on them.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.log_example_gen.parsing import REJECTED_SCHEMA, log_specs, parse_file
from components.log_example_gen.reasons import REASONS
from components.log_example_gen.window import LogFile
from models.section import UserError
from tests.components.log_example_gen.log_files import (
    Run,
    event,
    exposure,
    features,
    logs_config,
    ms,
    run,
    window_of_days,
    write_file,
    write_logs,
)

DAY = "2026-01-02"
AT = ms(f"{DAY} 10:00")
WINDOW = window_of_days(DAY, "2026-01-03", "2026-01-03", "2026-01-05 00:30")
FEATURES = features({"name": "price", "kind": "number"}, {"name": "title", "kind": "id"})
SOUND = [exposure("sound1", f"{DAY} 09:00", price=1.0, title="a"), exposure("sound2", "2026-01-03 09:00", price=2.0)]
COLUMNS = ["request_id", "item_id", "user_id", "time", "price", "title"]


def rows(*requests: str, **columns: Any) -> list[dict[str, Any]]:
    return [exposure(request, AT, **{"price": 1.0, "title": "a", **columns}) for request in requests]


def text(*lines: str | bytes, header: str | None = ",".join(COLUMNS)) -> bytes:
    """A text file, with the header of a CSV file."""
    all_lines = [*([header] if header else []), *lines]
    return b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in all_lines)


def parquet(table: pa.Table) -> Callable[[Path], Any]:
    return lambda path: pq.write_table(table, path)


@dataclass(frozen=True)
class Case:
    """A file among sound ones.

    Attributes:
      form: format of the logs.
      content: its bytes, or what writes it.
      rows: how many rows it has.
      joined: requests of the rows that become examples.
      rejected: reason and column by the number of the row.
      log: the log to which it belongs.
      settings: of the logs.
    """

    form: str
    content: bytes | Callable[[Path], Any]
    rows: int
    joined: tuple[str, ...] = ()
    rejected: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    log: str = "exposures"
    settings: dict[str, Any] = field(default_factory=dict)


GOOD = f"good,i1,u1,{AT},1.0,a"
ISO = {log: {"time_unit": "iso8601"} for log in ("exposures", "clicks", "purchases")}

CASES = {
    "columns in another order": Case(
        "csv", text(f"a,{AT},good,u1,i1,1.0", header="title,time,request_id,user_id,item_id,price"), 1, ("good",)
    ),
    "a column more": Case("csv", text(GOOD + ",7", header=",".join(COLUMNS) + ",new"), 1, ("good",)),
    "a value more, and one less": Case(
        "csv", text(GOOD, GOOD + ",7", "short,i1"), 3, ("good",),
        {2: ("malformed_row", None), 3: ("malformed_row", None)},
    ),
    "an open quote": Case(
        "csv", text('"open,i1,u1', GOOD), 2, ("good",), {1: ("malformed_row", None)}
    ),
    "no JSON": Case(
        "jsonl",
        text(*map(json.dumps, rows("good")), "{", "[]", "null", header=None),
        4,
        ("good",),
        {n: ("malformed_row", None) for n in (2, 3, 4)},
    ),
    "bytes that are not UTF-8": Case(
        "csv", text(GOOD.encode() + b"\xff", GOOD), 2, ("good",), {1: ("not_utf8", None)}
    ),
    "bytes that are not UTF-8, in JSON": Case(
        "jsonl",
        text(json.dumps(rows("good")[0]), b'{"request_id": "\xe4"}', header=None),
        2,
        ("good",),
        {2: ("not_utf8", None)},
    ),
    "bytes that are not UTF-8, in Parquet": Case(
        "parquet",
        parquet(pa.table({
            "request_id": ["good", "latin1"], "item_id": [b"i1", b"\xe41"], "user_id": ["u", "u"], "time": [AT, AT],
        })),
        2,
        ("good",),
        {2: ("not_utf8", "item_id")},
    ),
    "times of 1970, 1969, 2100 and 9999": Case(
        "csv",
        text(
            "a,i1,u1,0,1,a", "b,i1,u1,-1,1,a", f"c,i1,u1,{ms('2100-01-01 00:00')},1,a", "d,i1,u1,253402214400000,1,a",
            f"e,i1,u1,{ms('1999-12-31 23:59')},1,a", GOOD,
        ),
        6,
        ("good",),
        {n: ("time_out_of_range", "time") for n in (1, 2, 3, 4, 5)},
    ),
    "seconds in a column of ms": Case(
        "csv", text(f"s,i1,u1,{AT // 1000},1,a", GOOD), 2, ("good",), {1: ("time_out_of_range", "time")}
    ),
    "a file of seconds among files of ms": Case(
        "parquet",
        lambda path: write_file(path, [{**row, "time": row["time"] // 1000} for row in rows("a", "b", "c")]),
        3,
        rejected={n: ("time_out_of_range", "time") for n in (1, 2, 3)},
    ),
    "timestamps of several units and zones": Case(
        "parquet",
        parquet(pa.table({
            "request_id": ["good"], "item_id": ["i1"], "user_id": ["u"],
            "time": pa.array([AT * 1000], pa.timestamp("us", "Asia/Kolkata")),
        })),
        1,
        ("good",),
    ),
    "no time at all": Case(
        "csv", text("a,i1,u1,soon,1,a", "b,i1,u1,,1,a", GOOD), 3, ("good",),
        {1: ("bad_time", "time"), 2: ("missing_value", "time")},
    ),
    "offsets of several zones": Case(
        "csv",
        text(
            f"good1,i1,u1,{DAY}T10:00:00Z,1,a", f"good2,i1,u1,{DAY}T11:00:00+01:00,1,a", f"good3,i1,u1,{DAY} 10:00,1,a",
            f"good4,i1,u1,{DAY} 02:00:00.000-0800,1,a", f"bad,i1,u1,{DAY},1,a", f"ms,i1,u1,{AT},1,a",
        ),
        6,
        ("good1", "good2", "good3", "good4"),
        {5: ("bad_time", "time"), 6: ("bad_time", "time")},
        settings=ISO,
    ),
    "keys that are missing": Case(
        "csv", text(f",i1,u1,{AT},1,a", f'a,"",u1,{AT},1,a', f"b,i1,,{AT},1,a", GOOD), 4, ("good",),
        {1: ("missing_value", "request_id"), 2: ("missing_value", "item_id"), 3: ("missing_value", "user_id")},
    ),
    "a file without a key": Case(
        "csv", text(f"a,u1,{AT}", header="request_id,user_id,time"), 1, rejected={1: ("missing_column", "item_id")}
    ),
    "a file without a feature": Case(
        "csv", text(f"good,i1,u1,{AT}", header="request_id,item_id,user_id,time"), 1, ("good",)
    ),
    "values of another type": Case(
        "csv", text(f"a,i1,u1,{AT},cheap,a", f"b,i1,u1,{AT},1e40,a", GOOD), 3, ("good",),
        {1: ("bad_type", "price"), 2: ("bad_type", "price")},
    ),
    "a file without a row": Case("csv", text(), 0),
    "a file without a byte": Case("csv", b"", 0),
    "blank lines": Case("csv", text("", GOOD, "", ""), 1, ("good",)),
    "negative values": Case(
        "csv",
        text(
            f"sound1,i1,{AT},-0.01", f"sound1,i1,{AT + 1},-0", f"sound1,i1,{AT + 2},",
            header="request_id,item_id,time,value",
        ),
        3,
        rejected={1: ("negative_value", "value")},
        log="purchases",
    ),
    "a gzip file that is cut": Case(
        "csv",
        lambda path: path.with_suffix(".csv.gz").write_bytes(gzip.compress(text(*[GOOD] * 1000))[:-20]),
        1,
        rejected={1: ("unreadable_file", None)},
        settings={"unreadable_files": "reject", "exposures": {"path": "exposures/{date}/*.csv*"}},
    ),
    "a Parquet file cut in half": Case(
        "parquet",
        lambda path: path.write_bytes(cut_in_half(write_file(path, rows(*map(str, range(1000)))))),
        1,
        rejected={1: ("unreadable_file", None)},
        settings={"unreadable_files": "reject"},
    ),
}  # fmt: skip


def cut_in_half(path: Path) -> bytes:
    whole = path.read_bytes()
    return whole[: len(whole) // 2]


def sound_logs(root: Path, form: str, settings: dict[str, Any]) -> None:
    purchases = [event("sound1", f"{DAY} 09:20", value=5.0)]
    write_logs(root, form, SOUND, [event("sound1", f"{DAY} 09:10")], purchases)
    if settings.get("exposures", {}).get("time_unit") == "iso8601":
        for path in root.rglob("*.csv"):
            header, *lines = path.read_text().splitlines()
            at = header.split(",").index("time")
            cells = [line.split(",") for line in lines]
            for row in cells:
                row[at] = datetime.fromtimestamp(int(row[at]) / 1000, timezone.utc).isoformat()
            path.write_text("\n".join([header, *map(",".join, cells)]) + "\n")


def rows_of(root: Path, log: str, form: str) -> int:
    """Rows of the sound files of a log."""
    if form == "parquet":
        return sum(pq.ParquetFile(path).metadata.num_rows for path in (root / log).rglob("*.parquet"))
    return sum(len(path.read_text().splitlines()) - (form == "csv") for path in (root / log).rglob(f"*.{form}"))


def check_sums(result: Run) -> None:
    """Every row that was read has one outcome, in total and by day; the rejected rows are those that are counted."""
    for log, counts in result.report["logs"].items():
        assert sum(n for reasons in counts["outcomes"].values() for n in reasons.values()) == counts["read"]
        by_day = Counter()
        for outcomes in counts["days"].values():
            by_day.update({(o, reason): n for o, reasons in outcomes.items() for reason, n in reasons.items()})
        assert by_day == {(o, r): n for o, reasons in counts["outcomes"].items() for r, n in reasons.items()}
        assert sum(file["read"] for file in counts["files"].values()) == counts["read"]
        rejected = Counter(row["reason"] for row in result.rejected if row["log"] == log)
        assert rejected == counts["outcomes"].get("rejected", {})


@pytest.mark.parametrize("name", CASES)
def test_bad_file(tmp_path, name):
    case = CASES[name]
    root = tmp_path / "logs"
    sound_logs(root, case.form, case.settings)
    expected_rows = rows_of(root, case.log, case.form) + case.rows
    path = root / case.log / DAY / f"x.{case.form}"
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)

    result = run(
        tmp_path / "out", logs_config(root, case.form, max_rejected=0.9, **case.settings), FEATURES, WINDOW
    )  # fmt: skip

    found = {row["row"]: (row["reason"], row["column"]) for row in result.rejected}
    assert found == case.rejected
    assert {reason for reason, _ in found.values()} <= set(REASONS)
    log = {"exposures": "exposures", "clicks": "click", "purchases": "purchase"}[case.log]
    assert result.report["logs"][log]["read"] == expected_rows
    check_sums(result)
    assert {request for request, _ in result.rows} == {"sound1", "sound2", *case.joined}
    for request in case.joined:
        assert result.rows[request, "i1"]["event_time"] == [AT]
    for row in result.rejected:
        assert (row["log"], row["file"].split(".")[0]) == (log, f"{case.log}/{DAY}/x")
        assert row["detail"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "unreadable_files" in case.settings])
def test_damaged_file_stops_a_run_by_default(tmp_path, name):
    case = CASES[name]
    sound_logs(tmp_path / "logs", case.form, {})
    case.content(tmp_path / "logs" / case.log / DAY / f"x.{case.form}")
    settings = {key: value for key, value in case.settings.items() if key != "unreadable_files"}
    with pytest.raises(UserError, match=rf"exposures/{DAY}/x\.{case.form}(\.gz)?: cannot be read as "):
        run(tmp_path / "out", logs_config(tmp_path / "logs", case.form, **settings), FEATURES, WINDOW)


def test_rows_up_to_the_damage_are_read(tmp_path):
    path = tmp_path / "x.csv.gz"
    lines = [f"r{i},i{i},u,{AT},1.0,a" for i in range(500_000)]
    whole = gzip.compress(text(*lines), 1)
    path.write_bytes(whole[: len(whole) // 5 * 4])
    spec = log_specs(logs_config(tmp_path, "csv", unreadable_files="reject"), FEATURES)["exposures"]
    *parsed, last = parse_file(LogFile("exposures", str(path), "x.csv.gz", date(2026, 1, 2), 0, 0), spec)
    read = [request for part in parsed for request in part.rows.column("request_id").to_pylist()]
    assert 0 < len(read) < 500_000
    assert read == [f"r{i}" for i in range(len(read))]
    ((row, reason),) = zip(*(last.rejected.column(c).to_pylist() for c in ("row", "reason")))
    assert (row, reason) == (len(read) + 1, "unreadable_file")


def test_files_of_a_day_with_other_columns(tmp_path):
    sound_logs(tmp_path / "logs", "csv", {})
    folder = tmp_path / "logs/exposures" / DAY
    (folder / "b.csv").write_bytes(text(f"{AT},b,i1,u1,2.5", header="time,request_id,item_id,user_id,price"))
    (folder / "c.csv").write_bytes(text(f"c,x,i1,u1,{AT},t", header="request_id,extra,item_id,user_id,time,title"))
    result = run(tmp_path / "out", logs_config(tmp_path / "logs", "csv"), FEATURES, WINDOW)
    found = {k: (row.get("price", []), row.get("title", [])) for (k, _), row in result.rows.items() if k in "bc"}
    assert found == {"b": ([2.5], []), "c": ([], [b"t"])}
    columns = result.report["logs"]["exposures"]["columns"]
    assert {name: column["absent"] for name, column in columns.items()} == {"price": 1, "title": 1}
    check_sums(result)


@pytest.mark.parametrize("first", ["a", "b"])
def test_duplicates_with_other_values(tmp_path, first):
    """The earlier row counts, and of two at one time the same one, whatever file it is in."""
    sound_logs(tmp_path / "logs", "jsonl", {})
    folder = tmp_path / "logs/exposures" / DAY
    some, others = rows("tie", "same", price=3.0), rows("tie", price=4.0) + rows("same", price=3.0)
    later = [{**rows("late", price=price)[0], "time": AT + delay} for price, delay in ((7.0, 50), (8.0, 0), (7.0, 99))]
    write_file(folder / "a.jsonl", (some if first == "a" else others) + later[:1])
    write_file(folder / "b.jsonl", (others if first == "a" else some) + later[1:])
    result = run(tmp_path / "out", logs_config(tmp_path / "logs", "jsonl"), FEATURES, WINDOW)
    prices = {request: row["price"] for (request, _), row in result.rows.items()}
    assert {request: prices[request] for request in ("tie", "same", "late")} == {
        "tie": [3.0], "same": [3.0], "late": [8.0],
    }  # fmt: skip
    # 'same' and the last of 'late' repeat the row before them; 'tie' and the second of 'late' contradict it.
    assert result.report["logs"]["exposures"]["outcomes"]["duplicate"] == {"": 2, "conflicting": 2}
    check_sums(result)


@pytest.mark.parametrize(("negative", "value", "rejected"), [("reject", 5.0, 1), ("keep", 3.0, 0)])
def test_refunds(tmp_path, negative, value, rejected):
    sound_logs(tmp_path / "logs", "parquet", {})
    refund = [event("sound1", f"{DAY} 09:30", value=-2.0)]
    write_file(tmp_path / "logs/purchases" / DAY / "x.parquet", refund)
    logs = logs_config(tmp_path / "logs", max_rejected=0.9, purchases={"negative_values": negative})
    result = run(tmp_path / "out", logs, FEATURES, WINDOW)
    assert result.rows["sound1", "i1"]["purchase_value"] == [value]
    assert len(result.rejected) == rejected
    check_sums(result)


def test_empty_day_of_exposures_stops_a_run(tmp_path):
    sound_logs(tmp_path / "logs", "csv", {})
    (tmp_path / "logs/exposures" / DAY / "part-0.csv").write_bytes(text())
    with pytest.raises(UserError, match=rf"exposures: the log of {DAY} is empty: no row in '.*{DAY}/\*\.csv'"):
        run(tmp_path / "out", logs_config(tmp_path / "logs", "csv"), FEATURES, WINDOW)


def test_two_files_of_an_hour(tmp_path):
    sound_logs(tmp_path / "logs", "csv", {})
    for path in list((tmp_path / "logs/exposures").rglob("*.csv")):
        (path.parent / "00").mkdir()
        path.rename(path.parent / "00" / "a.csv")
    hour = tmp_path / "logs/exposures" / DAY / "10"
    write_file(hour / "a.csv", rows("one"))
    write_file(hour / "b.csv", rows("two"))
    hourly = {"path": "exposures/{date}/{hour}/*.csv", "missing_hours": "allow"}
    result = run(tmp_path / "out", logs_config(tmp_path / "logs", "csv", exposures=hourly), FEATURES, WINDOW)
    assert {"one", "two"} <= {request for request, _ in result.rows}
    check_sums(result)


class TestLimits:
    def logs(self, tmp_path, max_rejected):
        sound_logs(tmp_path / "logs", "csv", {})
        lines = [f"r{i},i1,u1,{AT},1,a" for i in range(92)]
        lines += [f"s{i},i1,u1,{AT // 1000},1,a" for i in range(2)] + [f"b{i},i1,u1,{AT},cheap,a" for i in range(2)]
        (tmp_path / "logs/exposures" / DAY / "part-0.csv").write_bytes(text(*lines))
        return logs_config(tmp_path / "logs", "csv", max_rejected=max_rejected)

    def run(self, tmp_path, max_rejected):
        return run(tmp_path / "out", self.logs(tmp_path, max_rejected), FEATURES, WINDOW)

    def test_of_a_reason(self, tmp_path):
        with pytest.raises(UserError) as error:
            self.run(tmp_path, {"time_out_of_range": 0.01, "bad_type": 0.5})
        first, *found, last = str(error.value).splitlines()
        # 96 rows of the day, and 4 of the other days.
        assert first == (
            "exposures: 2 of 100 rows were rejected as time_out_of_range "
            "(2.0%, more than logs.max_rejected.time_out_of_range = 1.0%):"
        )
        assert found == [
            f"  2 time_out_of_range: exposures/{DAY}/part-0.csv row 93: column 'time': expected a number of ms since "
            f"1970 (time_unit ms) from 2000 to 2099, found text {AT // 1000}, which is in range as s; "
            f"the row: s0,i1,u1,{AT // 1000},1,a",
            f"  2 bad_type: exposures/{DAY}/part-0.csv row 95: column 'price': expected a finite number, "
            f"found text cheap; the row: b0,i1,u1,{AT},cheap,a",
        ]
        assert last == f"All rejected rows are in the report: {tmp_path}/out/joined/stopped/report.html"

    def test_that_stop_leave_the_report_until_a_run_goes_through(self, tmp_path):
        with pytest.raises(UserError):
            self.run(tmp_path, 0.03)
        # TFX removes the outputs of a component that failed, but not what is beside the joined days.
        stopped = tmp_path / "out/joined/stopped"
        page = (stopped / "report.html").read_text()
        assert "The run was stopped." in page
        assert "exposures: 4 of 100 rows were rejected (4.0%, more than logs.max_rejected = 3.0%)" in page
        assert json.loads((stopped / "report.json").read_text())["logs"]["exposures"]["read"] == 100
        assert pq.read_table(stopped / "rejected").num_rows == 4
        logs = logs_config(tmp_path / "logs", "csv", max_rejected=0.05)
        after = run(tmp_path / "after", logs, FEATURES, WINDOW, joined=tmp_path / "out/joined")
        assert len(after.rejected) == 4
        assert not stopped.exists()
        assert "The run was stopped." not in (tmp_path / "after/report/report.html").read_text()

    @pytest.mark.parametrize(
        ("max_rejected", "message"),
        [
            (0.03, "4 of 100 rows were rejected (4.0%, more than logs.max_rejected = 3.0%)"),
            ({"total": 0.03}, "4 of 100 rows were rejected (4.0%, more than logs.max_rejected = 3.0%)"),
            ({"bad_type": 0.0}, "2 of 100 rows were rejected as bad_type (2.0%, more than"),
        ],
    )
    def test_that_stop(self, tmp_path, max_rejected, message):
        with pytest.raises(UserError) as error:
            self.run(tmp_path, max_rejected)
        assert message in str(error.value).splitlines()[0]

    def test_that_are_kept(self, tmp_path):
        result = self.run(tmp_path, {"time_out_of_range": 0.02, "bad_type": 0.02, "missing_value": 0.0})
        assert result.report["logs"]["exposures"]["outcomes"]["rejected"] == {"bad_type": 2, "time_out_of_range": 2}

    @pytest.mark.parametrize("given", [{"bad_typ": 0.1}, {"bad_type": 1.5}, -0.1, "much"])
    def test_that_are_none(self, tmp_path, given):
        with pytest.raises(ValueError, match="max_rejected"):
            logs_config(tmp_path, "csv", max_rejected=given)


def test_rejected_rows_are_one_data_set(tmp_path):
    sound_logs(tmp_path / "logs", "csv", {})
    for log in ("exposures", "clicks"):
        (tmp_path / "logs" / log / DAY / "x.csv").write_bytes(text("a,b", "c"))
    run(tmp_path / "out", logs_config(tmp_path / "logs", "csv", max_rejected=0.9), FEATURES, WINDOW)
    table = pq.read_table(tmp_path / "out/report/rejected")
    assert table.schema.remove_metadata() == REJECTED_SCHEMA
    assert sorted(zip(*(table.column(c).to_pylist() for c in ("log", "file", "row", "raw")))) == [
        ("click", f"clicks/{DAY}/x.csv", 1, "a,b"), ("click", f"clicks/{DAY}/x.csv", 2, "c"),
        ("exposures", f"exposures/{DAY}/x.csv", 1, "a,b"), ("exposures", f"exposures/{DAY}/x.csv", 2, "c"),
    ]  # fmt: skip


def test_without_rejected_rows_the_data_set_has_its_columns(tmp_path):
    sound_logs(tmp_path / "logs", "csv", {})
    run(tmp_path / "out", logs_config(tmp_path / "logs", "csv"), FEATURES, WINDOW)
    table = pq.read_table(tmp_path / "out/report/rejected")
    assert table.schema.remove_metadata() == REJECTED_SCHEMA
    assert table.num_rows == 0
