"""The log of what was served: whole files, the rows as they were sent, and nothing that holds serving up."""

import time
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from models.section import UserError
from serving.served_log import Served, ServedLog, table

OUTPUTS = {
    "pctr": np.array([0.1, 0.3, 0.2], np.float32),
    "order": np.array([1, 2, 0], np.int32),  # the second candidate comes first
}
SENT = {
    "user": [b"u1"],
    "item": [b"i1", b"i2", b""],
    "viewed": [[b"i7", b"i8", b""]],
    "price": np.array([9.5, np.nan, 3.0], np.float32),
    "price_band": np.array([9.5, np.nan, 3.0], np.float32),
}
EXPECTED = {
    "request_id": ["r1"] * 3,
    "time": [5] * 3,
    "user": ["u1"] * 3,
    "item": ["i1", "i2", None],
    "viewed": [["i7", "i8"]] * 3,
    "price": [9.5, None, 3.0],
    "served_pctr": pytest.approx([0.1, 0.3, 0.2]),
    "served_position": [3, 1, 2],
    "model_version": [7] * 3,
    "signature": ["rank"] * 3,
}


def served(inputs, version=7):
    return Served(version, "rank", inputs, OUTPUTS, "r1", {"price_band": "price"}, 5)


def as_protos(columns):
    return {name: tf.make_tensor_proto(value).SerializeToString() for name, value in columns.items()}


@pytest.mark.parametrize("form", [dict, as_protos], ids=["as the client has them", "as the server gets them"])
def test_the_rows_of_a_request(form):
    rows = table(served(form(SENT)))
    assert rows.to_pydict() == EXPECTED
    # Rows of one model can lie in one file, whatever the order of the features in a message.
    assert table(served(form(dict(reversed(SENT.items()))))).schema == rows.schema


def test_a_version_that_is_not_known_is_missing():
    assert table(served(SENT, None)).column("model_version").to_pylist() == [None] * 3


def add(log, requests, **options):
    for i in range(requests):
        log.add(7, "rank", SENT, OUTPUTS, f"r{i}", **options)


def test_files_are_whole_by_day_and_hour(tmp_path):
    now = datetime.now(timezone.utc)
    with ServedLog(tmp_path, seconds=0.2) as log:
        add(log, 2)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/*.parquet")):  # without waiting for the end
            assert time.monotonic() < deadline
            time.sleep(0.02)
        add(log, 3)
    files = list(tmp_path.glob("*/*"))
    assert {f.suffix for f in files} == {".parquet"} and len(files) == 2
    hours = {(f.parent.name, f.name.split("-")[0]) for f in files}
    assert hours <= {(t.strftime("%Y-%m-%d"), t.strftime("%H")) for t in (now, datetime.now(timezone.utc))}
    rows = pa.concat_tables([pq.read_table(f) for f in files])
    assert sorted(rows.column("request_id").to_pylist()) == sorted(["r0", "r1"] * 6 + ["r2"] * 3)


def test_a_file_has_so_many_rows_at_most(tmp_path):
    with ServedLog(tmp_path, rows=6) as log:
        add(log, 7)
    assert sorted(len(pq.read_table(f)) for f in tmp_path.glob("*/*.parquet")) == [3, 6, 6, 6]


def test_serving_does_not_wait_for_the_log(tmp_path):
    class Slow(ServedLog):
        def _flush(self, held):
            time.sleep(0.3)
            super()._flush(held)

    with Slow(tmp_path, rows=3, waiting=2) as log:
        began = time.monotonic()
        add(log, 50)
        assert time.monotonic() - began < 0.2
    kept = {r for f in tmp_path.glob("*/*.parquet") for r in pq.read_table(f).column("request_id").to_pylist()}
    assert log.left_out > 0 and len(kept) == 50 - log.left_out


def test_a_request_that_cannot_be_written_costs_no_other(tmp_path):
    with ServedLog(tmp_path) as log:
        log.add(7, "rank", {"item": [b"\xff", b"a", b"b"]}, OUTPUTS)  # no UTF-8
        add(log, 1)
    (file,) = tmp_path.glob("*/*.parquet")
    assert len(pq.read_table(file)) == 3 and log.left_out == 1


def test_a_folder_that_cannot_be_made_and_a_zone_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/log: the log of what is served cannot be written there"):
        ServedLog(tmp_path / "file" / "log")
    with pytest.raises(UserError, match="timezone: expected a name such as 'Europe/Berlin', got 'Mars'"):
        ServedLog(tmp_path, timezone="Mars")
