"""Rows by bucket on disk: whatever the buckets, the same rows; and no more of them in memory than asked for."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.log_example_gen import buckets as module
from components.log_example_gen.buckets import (
    BucketWriter,
    bucket_count,
    bucket_of,
    parts_of,
    position,
    read_bucket,
)
from components.log_example_gen.parsing import HASH, log_specs, parse_file
from components.log_example_gen.reading import read_batches, row_group_bytes
from components.log_example_gen.window import LogFile
from tests.components.log_example_gen.log_files import exposure, logs_config, ms, run, window_of_days, write_logs

SPECS = log_specs(logs_config("/logs"), ())


def rows_of(n, seed=0):
    """Rows of the exposure log."""
    rng = np.random.default_rng(seed)
    columns = {name: pa.array([f"{name}{i}" for i in range(n)]) for name in ("request_id", "item_id", "user_id")}
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64, endpoint=False)
    return pa.table({**columns, "event_time": pa.array(np.arange(n)), HASH: pa.array(hashes)}).cast(
        SPECS["exposures"].schema
    )


def written(tmp_path, rows, buckets, memory=1 << 30, at_once=100):
    """Pieces per bucket."""
    writer = BucketWriter(str(tmp_path), "exposures", buckets, memory)
    pieces = {}
    for start in range(0, len(rows), at_once):
        for bucket, piece in writer.add(rows.slice(start, at_once)):
            pieces.setdefault(bucket, []).append(piece)
    for bucket, piece in writer.flush():
        pieces.setdefault(bucket, []).append(piece)
    return pieces


class TestWriting:
    @pytest.mark.parametrize(("buckets", "memory"), [(1, 1 << 30), (7, 1 << 30), (7, 1 << 17), (1000, 1)])
    def test_every_row_is_in_its_bucket_once(self, tmp_path, buckets, memory):
        rows = rows_of(1000)
        pieces = written(tmp_path, rows, buckets, memory)
        seen = []
        for bucket in pieces:
            table = read_bucket(pieces[bucket], SPECS, bucket, buckets)["exposures"]
            # The reference in Python's integers: equal ranges of the high half.
            for value in table.column(HASH).to_pylist():
                assert (value >> 32) * buckets // 2**32 == bucket
            seen += table.to_pylist()
        order = lambda row: row["event_time"]  # noqa: E731
        assert sorted(seen, key=order) == rows.to_pylist()
        # A file whenever the rows gathered reach their share of the memory: a portion has more than half of 8 KiB.
        assert len(list(tmp_path.iterdir())) == {1: 10, 1 << 17: 5, 1 << 30: 1}[memory]

    def test_a_cut_of_a_bucket_is_part_of_it(self, tmp_path):
        rows = rows_of(2000)
        pieces = written(tmp_path, rows, 3)
        for bucket in range(3):
            whole = read_bucket(pieces[bucket], SPECS, bucket, 3)["exposures"]
            cut = [read_bucket(pieces[bucket], SPECS, bucket * 5 + i, 15)["exposures"] for i in range(5)]
            assert all(len(part) for part in cut)
            together = pa.concat_tables(cut).sort_by("event_time")
            assert together.to_pylist() == whole.sort_by("event_time").to_pylist()

    def test_the_order_of_pieces_does_not_matter(self, tmp_path):
        pieces = written(tmp_path, rows_of(500), 2, memory=1)[0]
        assert len(pieces) > 2
        assert read_bucket(pieces, SPECS, 0, 2) == read_bucket(pieces[::-1], SPECS, 0, 2)

    def test_positions_order_the_buckets_of_any_cut(self):
        begins = [(b / k, position(b, k)) for k in (1, 3, 8, 1000) for b in range(k)]
        assert [p for _, p in sorted(begins)] == sorted(p for _, p in begins)

    def test_bucket_of_the_extremes(self):
        assert bucket_of(np.array([0, 2**64 - 1], np.uint64), 10**6).tolist() == [0, 10**6 - 1]


class TestSizes:
    def test_buckets_follow_from_size_format_and_memory(self):
        day = window_of_days("2026-01-01", "2026-01-01", "2026-01-01", "2026-01-02").first_day

        def count(size, memory, name="a.parquet"):
            return bucket_count([LogFile("exposures", f"/logs/{name}", name, day, size, 0)], SPECS, memory)

        per_byte = module.ROW_BYTES["parquet"] * module.JOIN_BYTES
        assert count(10, 1 << 30) == 1
        assert count(1 << 30, 1 << 30) == per_byte
        assert count(10 << 30, 1 << 30) == 10 * per_byte
        assert count(10 << 30, 2 << 30) == 5 * per_byte
        assert count(1 << 30, 1 << 30, "a.gz") == module.GZIP * per_byte

    def test_buckets_that_are_joined_at_once_keep_all_busy(self):
        day = window_of_days("2026-01-01", "2026-01-01", "2026-01-01", "2026-01-02").first_day

        def count(size, memory, at_once):
            return bucket_count([LogFile("exposures", "/logs/a.parquet", "a", day, size, 0)], SPECS, memory, at_once)

        per_byte = int(module.ROW_BYTES["parquet"] * module.JOIN_BYTES)
        assert count(1 << 30, 1 << 28, 4) == 4 * per_byte
        # The last turn is full: 41 buckets would leave two of three idle.
        assert count((1 << 30) + (1 << 29) // per_byte, 1 << 30, 3) == 42
        # What fits at once is cut where it is worth it, and not where it is little.
        assert count(1 << 30, 1 << 40, 3) == 3
        assert count(1 << 20, 1 << 40, 3) == 1

    def test_a_bucket_that_needs_too_much_is_cut(self):
        pieces = [("exposures", "f", 0, 600), ("click", "g", 0, 400)]
        assert parts_of(pieces, 1000 * int(module.JOIN_BYTES)) == 1
        assert parts_of(pieces, 100 * int(module.JOIN_BYTES)) == 10


class TestLargeFiles:
    def test_row_groups_apart_are_the_file(self, tmp_path):
        path = str(tmp_path / "a.parquet")
        pq.write_table(rows_of(1000).drop([HASH]), path, row_group_size=300)
        assert len(row_group_bytes(path)) == 4
        whole = [*read_batches(path, "parquet", ["item_id"])]
        cuts = range(0, 1), range(1, 3), range(3, 4)
        parts = [batch for cut in cuts for batch in read_batches(path, "parquet", ["item_id"], groups=cut)]
        for field in (lambda b: b.rows.tolist(), lambda b: b.columns["item_id"].to_pylist()):
            assert [v for b in parts for v in field(b)] == [v for b in whole for v in field(b)]
        assert parts[-1].rows[-1] == 1000

    def test_a_large_file_is_read_in_parts(self, tmp_path, monkeypatch):
        shown = [exposure(f"r{i}", ms("2026-01-02") + i * 1000) for i in range(400)]
        shown[370]["user_id"] = None
        write_logs(tmp_path, "parquet", [*shown, exposure("x", "2026-01-03 01:00")])
        path = tmp_path / "exposures/2026-01-02/part-0.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=100)
        window = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-05 00:30")
        whole = run(tmp_path / "a", logs_config(tmp_path), window=window)
        monkeypatch.setattr("components.log_example_gen.joining.PART_BYTES", 1)
        read = []
        monkeypatch.setattr(
            "components.log_example_gen.joining.parse_file",
            lambda file, spec, groups: read.append((file.relative, groups)) or parse_file(file, spec, groups),
        )
        parts = run(tmp_path / "b", logs_config(tmp_path), window=window)
        of_large = [groups for file, groups in read if file == "exposures/2026-01-02/part-0.parquet"]
        # Threads read them, in any order.
        assert sorted(of_large, key=lambda groups: groups.start) == [range(i, i + 1) for i in range(5)]
        assert parts.report == whole.report
        assert parts.records == whole.records
        assert [(r["file"], r["row"]) for r in parts.rejected] == [("exposures/2026-01-02/part-0.parquet", 371)]
        assert parts.rejected == whole.rejected


class TestSkew:
    def test_a_key_with_a_third_of_the_rows(self, tmp_path):
        """Rows of one key lie in one bucket, however small buckets are to be."""
        start = ms("2026-01-02")
        shown = [exposure(f"r{i}", start + i * 1000) for i in range(700)]
        shown += [exposure("hot", start + i * 7, item="i2") for i in range(300)]
        write_logs(tmp_path, "csv", [*shown, exposure("x", "2026-01-03 01:00")])
        window = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-05 00:30")
        many = run(tmp_path / "out", logs_config(tmp_path, "csv"), window=window, flags=["--join_memory_gib=0.00001"])
        assert len(list((tmp_path / "out/examples/Split-train").iterdir())) > 20
        assert many.report["logs"]["exposures"]["outcomes"]["duplicate"] == {"": 299}
        assert many.report["examples"]["train"]["rows"] == 702
        assert many.rows["hot", "i2"]["event_time"] == [start]
