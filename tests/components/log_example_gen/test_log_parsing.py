"""Typed rows: what a row becomes does not depend on the rows beside it, nor on the format."""

import json
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log_example_gen.parsing import key_hash, log_specs, parse_file
from components.log_example_gen.window import LogFile
from tests.components.log_example_gen.log_files import features, logs_config, ms, write_file

NOON = ms("2026-01-02 12:00")
FEATURES = features(
    {"name": "title", "kind": "id"},
    {"name": "price", "kind": "number"},
    {"name": "history", "kind": "id_list", "max_length": 5, "separator": "|"},
)
GOOD = {"request_id": "r", "item_id": "i", "user_id": "u", "time": NOON, "title": "a", "price": 1.5, "history": ["1"]}


def parse(path):
    """By row number: the accepted row, or reason and column for which it was rejected."""
    spec = log_specs(logs_config("/", path.suffix[1:]), FEATURES)["exposures"]
    file = LogFile("exposures", str(path), path.name, date(2026, 1, 2), 0, 0)
    accepted, rejected = [], {}
    for parsed in parse_file(file, spec):
        accepted += parsed.rows.to_pylist()
        rejected |= {row["row"]: (row["reason"], row["column"]) for row in parsed.rejected.to_pylist()}
    return accepted, rejected


def json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "reason", "column"),
        [
            ({"request_id": None}, "missing_value", "request_id"),
            ({"item_id": ""}, "missing_value", "item_id"),
            ({"user_id": 1.5}, "bad_type", "user_id"),
            ({"time": None}, "missing_value", "time"),
            ({"time": "soon"}, "bad_time", "time"),
            ({"time": NOON // 1000}, "time_out_of_range", "time"),
            ({"price": "cheap"}, "bad_type", "price"),
            ({"price": [1.5]}, "bad_type", "price"),
            ({"history": 1.5}, "bad_type", "history"),
            ({"history": [1.5]}, "bad_type", "history"),
            ({"title": {}}, "bad_type", "title"),
            ({"request_id": None, "price": "cheap"}, "missing_value", "request_id"),
        ],
    )
    def test_one_bad_row_among_good_ones(self, tmp_path, change, reason, column):
        accepted, rejected = parse(json_lines(tmp_path / "f.jsonl", [GOOD, {**GOOD, **change}, GOOD]))
        assert rejected == {2: (reason, column)}
        assert len(accepted) == 2

    def test_json_key_that_is_not_there(self, tmp_path):
        lacking = {k: v for k, v in GOOD.items() if k != "user_id"}
        _, rejected = parse(json_lines(tmp_path / "f.jsonl", [GOOD, lacking, {**GOOD, "user_id": None}]))
        assert rejected == {2: ("missing_column", "user_id"), 3: ("missing_value", "user_id")}

    @pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
    def test_file_without_a_required_column(self, tmp_path, form):
        path = write_file(tmp_path / f"f.{form}", [GOOD, GOOD], [c for c in GOOD if c != "item_id"])
        assert parse(path) == ([], {1: ("missing_column", "item_id"), 2: ("missing_column", "item_id")})

    @pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
    def test_file_without_a_feature(self, tmp_path, form):
        path = write_file(tmp_path / f"f.{form}", [GOOD], [c for c in GOOD if c not in ("price", "history")])
        ((row,), rejected) = parse(path)
        assert rejected == {}
        assert (row["price"], row["history"], row["title"]) == (None, None, "a")


VALUES = st.sampled_from(
    [
        *(0, 7, -1, 2**53 + 1, 2**64, 1.5, 3.0, NOON, True, None, {}, {"a": 1}),
        *("", "a", "7", "1.5", "2026-01-02 12:00:00", "é", "1|2", str(NOON)),
        *([], ["a"], [1], [1, "a"], [None], [1.5], [[1]]),
    ]
)
ROW = st.just(GOOD) | st.builds(
    lambda column, value: {**GOOD, column: value}, st.sampled_from(list(GOOD)), VALUES
)
LINE = st.one_of(
    st.builds(json.dumps, ROW),
    st.builds(lambda row, lost: json.dumps({k: v for k, v in row.items() if k != lost}), ROW, st.sampled_from([*GOOD])),
    st.sampled_from(["{", "[1]", "null", "x}", json.dumps(GOOD) * 2, '{"time": 1, "time": 2}', "{}", "", " "]),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(LINE, max_size=8))
def test_json_rows_do_not_depend_on_their_neighbours(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")

    def of(content):
        path = folder / "f.jsonl"
        path.write_text(content)
        return parse(path)

    accepted, rejected = of("\n".join(lines))
    alone = [of(line) for line in lines if line]
    assert rejected == {n + 1: found[1][1] for n, found in enumerate(alone) if found[1]}
    assert sorted(map(repr, accepted)) == sorted(repr(row) for rows, _ in alone for row in rows)
    assert len(accepted) + len(rejected) == len(alone)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({
    "title": st.none() | st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])),
    "price": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    "history": st.none() | st.lists(st.text("abé0", min_size=1), max_size=4),
}), min_size=1, max_size=6))
def test_formats_give_equal_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("formats")
    found = []
    for form in ("parquet", "csv", "jsonl"):
        path = write_file(folder / f"f.{form}", [{**GOOD, **row} for row in rows], list(GOOD))
        accepted, rejected = parse(path)
        assert rejected == {}
        # JSON rows may come in another order.
        found.append(sorted(map(repr, accepted)))
    assert found[0] == found[1] == found[2]


def test_extra_columns_are_kept_beside_the_features(tmp_path):
    logs = logs_config("/", "jsonl")
    extra = {"arm": "id", "propensity": "number", "title": "number"}
    exposures = logs.exposures.model_copy(update={"extra": extra})
    spec = log_specs(logs.model_copy(update={"exposures": exposures}), FEATURES)["exposures"]
    path = json_lines(tmp_path / "a.jsonl", [GOOD | {"arm": "b", "propensity": 0.25}, GOOD | {"request_id": "s"}])
    (parsed,) = parse_file(LogFile("exposures", str(path), path.name, date(2026, 1, 2), 0, 0), spec)
    rows = {row["request_id"]: row for row in parsed.rows.to_pylist()}
    assert (rows["r"]["arm"], rows["r"]["propensity"]) == ("b", 0.25)
    assert (rows["s"]["arm"], rows["s"]["propensity"]) == (None, None)
    assert rows["r"]["title"] == "a"  # a feature stays what it is
    taken = exposures.model_copy(update={"extra": {"click": "number"}})
    with pytest.raises(ValueError, match="expected another name than 'click', it is taken by the label of event"):
        log_specs(logs.model_copy(update={"exposures": taken}), FEATURES)


def test_hash_of_a_key():
    def hashes(*keys):
        return key_hash(*(pa.chunked_array([pa.array(part, pa.string())]) for part in zip(*keys))).tolist()

    some = hashes(("a", "b"), ("b", "a"), ("ab", ""), ("a", "b"))
    assert some[0] == some[3]
    assert len(set(some)) == 3
    many = hashes(*((f"r{i}", "i") for i in range(20_000)))
    assert len(set(many)) == 20_000
    # Buckets are ranges of the hash: each sixteenth gets its share, within five standard deviations.
    counts = [sum(h >> 60 == b for h in many) for b in range(16)]
    assert all(abs(count - 1250) < 5 * 1250**0.5 for count in counts)
    # Examples would come in another order, and other shards, if this value changed.
    assert some[0] == 5701334588653792537
