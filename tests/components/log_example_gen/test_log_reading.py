"""Files as they come: good rows, bad rows, and files that are none."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log_example_gen.reading import Malformed, UnreadableFile, has_rows, read_batches


def read(path, columns, **sizes):
    """Rows by number: values of the columns that are there, or what is wrong."""
    rows, raw = {}, {}
    for batch in read_batches(str(path), path.name.split(".")[1], columns, **sizes):
        if isinstance(batch, Malformed):
            found = zip(batch.rows.tolist(), batch.details, batch.raw)
        else:
            values = [dict(zip(batch.columns, row)) for row in zip(*(a.to_pylist() for a in batch.columns.values()))]
            found = zip(batch.rows.tolist(), values, batch.raw(np.arange(len(batch.rows))))
        for number, value, text in found:
            assert number not in rows
            rows[number], raw[number] = value, text
    return rows, raw


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.fixture(params=[8 << 20, 16])
def sizes(request):
    """One block for the whole file, and blocks shorter than a line."""
    return {"block_bytes": request.param, "batch_rows": 2}


CSV_LINES = ["1,2", '"1","2"', 'x"y,"z', '"', '"",""', ",", "1", "", "1,2,3", '"a""b",c', '","']


class TestCsv:
    def test_values_as_text(self, tmp_path, sizes):
        path = write(tmp_path, "f.csv", b'\xef\xbb\xbfa, b,c\r\n1,"x, ""y""",\r\n\r\n,"",\xc3\xa9\r\n007,NULL,nan')
        rows, raw = read(path, ["c", "b", "zz"], **sizes)
        assert rows == {1: {"c": None, "b": 'x, "y"'}, 2: {"c": "é", "b": ""}, 3: {"c": "nan", "b": "NULL"}}
        assert raw == {1: '1,"x, ""y""",', 2: ',"",é', 3: "007,NULL,nan"}

    def test_bad_rows_and_their_neighbours(self, tmp_path, sizes):
        lines = [
            b"a,b",
            b"1,1",
            b"2",
            b"3,3,3",
            b'4,"4',  # would swallow all that follows, if a value could go over lines
            b"5,5",
            b"6,\xff",
            b'7x"7,"7',  # an even number of quotes
            b'8,"8"',
            b"9,9\0",
            b"10\r,10",
            b"11,11",
        ]
        rows, raw = read(write(tmp_path, "f.csv", b"\n".join(lines) + b"\n"), ["a", "b"], **sizes)
        good = {n: v for n, v in rows.items() if isinstance(v, dict)}
        assert good == {n: {"a": str(n), "b": str(n)} for n in (1, 5, 8, 11)}
        assert {n: v for n, v in rows.items() if n not in good} == {
            2: "1 columns where the header has 2",
            3: "3 columns where the header has 2",
            4: "a quote that is not closed",
            6: "not UTF-8",
            7: "a quote that is not closed",
            9: "a NUL byte inside the line",
            10: "a carriage return inside the line",
        }
        assert raw[4] == '4,"4'
        assert raw[6] == "6,\\xff"

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(CSV_LINES)))
    def test_every_line_is_one_row_whatever_its_neighbours(self, tmp_path_factory, lines):
        folder = tmp_path_factory.mktemp("lines")
        together, _ = read(write(folder, "f.csv", "\n".join(["a,b", *lines, ""]).encode()), ["a", "b"])
        alone = []
        for line in filter(None, lines):
            rows, _ = read(write(folder, "g.csv", f"a,b\n{line}\n".encode()), ["a", "b"])
            alone += rows.values()
        good = [value for value in together.values() if isinstance(value, dict)]
        assert sorted(together) == list(range(1, len(alone) + 1))
        assert [isinstance(together[n + 1], dict) for n in range(len(alone))] == [isinstance(v, dict) for v in alone]
        assert sorted(map(str, good)) == sorted(str(v) for v in alone if isinstance(v, dict))

    @pytest.mark.parametrize("content", [b"", b"a,b", b"a,b\n", b"a,b\r\n\r\n"])
    def test_no_rows(self, tmp_path, content):
        path = write(tmp_path, "f.csv", content)
        assert read(path, ["a"]) == ({}, {})
        assert not has_rows(str(path), "csv")

    def test_other_order_and_more_columns_than_needed(self, tmp_path):
        path = write(tmp_path, "f.csv", b"new,b,a\nx,2,1\n")
        assert read(path, ["a", "b"])[0] == {1: {"a": "1", "b": "2"}}

    @pytest.mark.parametrize("header", [b"a,a", b'a,"b', b"a,\xff"])
    def test_bad_header(self, tmp_path, header):
        with pytest.raises(UnreadableFile, match=r"f\.csv: .*header"):
            read(write(tmp_path, "f.csv", header + b"\n1,2\n"), ["a"])

    def test_gzip(self, tmp_path):
        packed = gzip.compress(b"a\n" + b"1\n" * 1000)
        rows, _ = read(write(tmp_path, "f.csv.gz", packed), ["a"])
        assert len(rows) == 1000
        with pytest.raises(UnreadableFile, match=r"half\.csv\.gz: cannot be read as CSV: "):
            read(write(tmp_path, "half.csv.gz", packed[: len(packed) // 2]), ["a"])


class TestJsonLines:
    def test_values_as_they_are(self, tmp_path, sizes):
        lines = [{"a": 1, "b": ["x", None], "c": "2026-01-01 00:00:00"}, {"a": None, "b": []}, {"a": 0, "b": None}]
        path = write(tmp_path, "f.jsonl", "\n\n".join(map(json.dumps, lines)).encode())
        rows, raw = read(path, ["a", "b", "c"], **sizes)
        assert {n: [row.get(c) for c in "abc"] for n, row in rows.items()} == {
            n + 1: [line.get(c) for c in "abc"] for n, line in enumerate(lines)
        }
        assert raw == {n + 1: json.dumps(line) for n, line in enumerate(lines)}

    def test_mixed_types_keep_their_values(self, tmp_path, sizes):
        values = [1, "x", 2.5, True, None, 2**70, 2**53 + 1, ["a"], [], [1, "b"], [1, 2.5], [[1]], {"k": 1}, "\ud800"]
        path = write(tmp_path, "f.jsonl", "".join(json.dumps({"a": v}) + "\n" for v in values).encode())
        rows, _ = read(path, ["a"], **sizes)
        got = [rows[n + 1]["a"] for n in range(len(values))]
        assert got[:7] == [1, "x", 2.5, True, None, str(2**70), 2**53 + 1]
        assert got[7:11] == [["a"], [], ["1", "b"], [1.0, 2.5]]
        for odd in got[11:]:
            assert isinstance(odd, (dict, list))

    def test_large_ids_keep_all_digits(self, tmp_path):
        content = b'{"a": 18446744073709551615}\n{"a": 9007199254740993}\n{"a": 0.5}\n'
        rows, _ = read(write(tmp_path, "f.jsonl", content), ["a"])
        assert [str(row["a"]) for row in rows.values()] == ["18446744073709551615", "9007199254740993", "0.5"]

    def test_bad_rows_and_their_neighbours(self, tmp_path, sizes):
        lines = [b'{"a": 1}', b'{"a": 2', b"[3]", b'{"a": 4}{"a": 4}', b'{"a": "\xff"}', b"null", b'{"a": 7}', b"8}"]
        rows, _ = read(write(tmp_path, "f.jsonl", b"\n".join(lines)), ["a"], **sizes)
        assert {n: v for n, v in rows.items() if isinstance(v, dict)} == {1: {"a": 1}, 7: {"a": 7}}
        assert sorted(rows) == list(range(1, 9))
        assert rows[5] == "not UTF-8"
        assert rows[3] == "expected a JSON object, got [3]"
        assert rows[2].startswith("not JSON: ")

    def test_absent_is_told_from_null(self, tmp_path):
        path = write(tmp_path, "f.jsonl", b'{"a": null, "b": 1}\n{"b": 1}\n')
        (batch,) = read_batches(str(path), "jsonl", ["a", "b"])
        assert [batch.absent(position, "a") for position in (0, 1)] == [False, True]


class TestParquet:
    def test_rows_are_numbered_through_the_batches(self, tmp_path, sizes):
        path = tmp_path / "f.parquet"
        pq.write_table(pa.table({"a": range(7), "b": list("abcdefg")}), path, row_group_size=3)
        rows, raw = read(path, ["b", "zz"], **sizes)
        assert rows == {n + 1: {"b": "abcdefg"[n]} for n in range(7)}
        assert json.loads(raw[5]) == {"b": "e"}

    def test_without_any_of_the_columns(self, tmp_path):
        path = tmp_path / "f.parquet"
        pq.write_table(pa.table({"a": range(7)}), path)
        (batch,) = read_batches(str(path), "parquet", ["zz"])
        assert (len(batch.rows), batch.columns, batch.names) == (7, {}, ("a",))

    @pytest.mark.parametrize("damage", ["half", "empty", "csv", "page"])
    def test_unreadable(self, tmp_path, damage):
        path = tmp_path / "f.parquet"
        pq.write_table(pa.table({"a": [str(i) for i in range(10_000)]}), path, compression="gzip")
        whole = path.read_bytes()
        path.write_bytes(
            {
                "half": whole[: len(whole) // 2],
                "empty": b"",
                "csv": b"a\n1\n",
                "page": whole[:200] + bytes(len(whole) // 2) + whole[200 + len(whole) // 2 :],
            }[damage]
        )
        with pytest.raises(UnreadableFile, match=r"f\.parquet: cannot be read as Parquet: "):
            read(path, ["a"])
        if damage != "page":
            with pytest.raises(UnreadableFile, match=r"f\.parquet: cannot be read as Parquet: "):
                has_rows(str(path), "parquet")

    def test_has_rows(self, tmp_path):
        path = tmp_path / "f.parquet"
        for rows in (0, 3):
            pq.write_table(pa.table({"a": range(rows)}), path)
            assert has_rows(str(path), "parquet") == bool(rows)


def test_missing_file(tmp_path):
    with pytest.raises(UnreadableFile, match=r"gone\.csv: cannot be read as CSV: "):
        read(tmp_path / "gone.csv", ["a"])
