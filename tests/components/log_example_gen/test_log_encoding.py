"""Encoded rows against the protobuf library."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.log_example_gen.encoding import encode, write_examples
from tests.components.log_example_gen.log_files import parse_example

KINDS = {
    "text": (pa.string(), st.text(max_size=200)),
    "many": (pa.list_(pa.string()), st.lists(st.text(max_size=5), max_size=60)),
    "number": (pa.float64(), st.floats(width=32, allow_nan=False)),
    "count": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "few": (pa.int64(), st.integers(-2, 150)),
}


def reference(row):
    """The example made with the protobuf library, whose deterministic form sorts the features."""
    example = tf.train.Example()
    example.features.SetInParent()
    for name, value in row.items():
        if value is None:
            continue
        feature = example.features.feature[name]
        if name == "number":
            feature.float_list.value.append(value)
        elif name in ("count", "few"):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.SetInParent()  # an empty list is a value too
            feature.bytes_list.value.extend(v.encode() for v in ([value] if isinstance(value, str) else value))
    return example.SerializeToString(deterministic=True)


ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (_, values) in KINDS.items()}), max_size=12)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_bytes_are_those_of_protobuf(rows):
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, (kind, _) in KINDS.items()})
    assert list(encode(table)) == [reference(row) for row in rows]


@pytest.mark.parametrize("rows", [1, 8193])
def test_files_hold_the_same_examples(tmp_path, rows):
    """As TensorFlow reads them: it looks at both checksums of every record."""
    rng = np.random.default_rng(rows)
    counts = rng.integers(-(2**62), 2**62, rows) >> rng.integers(0, 62, rows)
    table = pa.table(
        {
            "text": pa.array(["x" * n for n in rng.integers(0, 300, rows)], pa.string(), mask=rng.random(rows) < 0.3),
            "many": pa.array([None if n == 5 else ["é"] * n for n in rng.integers(0, 6, rows)], pa.list_(pa.string())),
            "number": pa.array(rng.standard_normal(rows), mask=rng.random(rows) < 0.3),
            "count": pa.array(counts, mask=rng.random(rows) < 0.3),
            "few": pa.array(rng.integers(-3, 200, rows), mask=rng.random(rows) < 0.3),
            "nothing": pa.nulls(rows, pa.float64()),
        }
    )
    for part in (table, pa.concat_tables([table.slice(rows // 2), table.slice(0, rows // 2)])):
        write_examples(part, str(tmp_path / "file"), str(tmp_path))
        found = [r.numpy() for r in tf.data.TFRecordDataset([str(tmp_path / "file")])]
        assert found == [reference(row) for row in part.to_pylist()]
        assert found == list(encode(part))


def test_slices_and_many_rows():
    n = 40_000
    table = pa.table(
        {
            "text": pa.array([str(i) * (i % 9) for i in range(n)]),
            "many": pa.array([None if i % 5 == 0 else [str(i)] * (i % 4) for i in range(n)]),
            "number": pa.array(np.arange(n) / 2),
            "count": pa.array(np.arange(n) - 7),
        }
    )
    for part in (table, table.slice(123, 30_000), pa.concat_tables([table.slice(5, 2), table.slice(100, 3)])):
        encoded = list(encode(part))
        assert len(encoded) == len(part)
        for position in (0, len(part) // 2, len(part) - 1):
            row = part.slice(position, 1).to_pylist()[0]
            got = parse_example(encoded[position])
            assert got["text"] == [row["text"].encode()]
            assert got.get("many") == (None if row["many"] is None else [v.encode() for v in row["many"]])
            assert got["number"] == [row["number"]]
            assert got["count"] == [row["count"]]


def test_equal_rows_are_equal_bytes():
    table = pa.table({"b": ["x", "x"], "a": [1, 1], "c": [0.5, 0.5]})
    first, second = encode(table)
    assert first == second
    assert next(encode(table.select(["c", "a", "b"]))) == first


def test_missing_is_null_and_zero_is_not():
    table = pa.table(
        {
            "text": pa.array(["", None]),
            "number": pa.array([0.0, None]),
            "count": pa.array([0, None]),
            "many": pa.array([["a"], None]),
        }
    )
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(list(encode(table)))
    for name in table.column_names:
        column = batch.column(batch.schema.get_field_index(name))
        assert column.is_null().to_pylist() == [False, True], name
    assert batch.column(batch.schema.get_field_index("text")).to_pylist()[0] == [b""]


def test_no_rows(tmp_path):
    (tmp_path / "partial").mkdir()
    empty = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.list_(pa.string()))})
    assert list(encode(empty)) == []
    write_examples(empty, str(tmp_path / "file"), str(tmp_path / "partial"))
    assert list(tf.data.TFRecordDataset([str(tmp_path / "file")])) == []
    assert not list((tmp_path / "partial").iterdir())
