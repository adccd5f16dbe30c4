"""LogExampleGen as a whole: logs in files, examples and report out."""

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_data_validation as tfdv
from tfx.components.statistics_gen.executor import Executor as StatisticsGenExecutor
from tfx.types import standard_artifacts

from components.log_example_gen import LogExampleGen
from components.log_example_gen.report import ReconciliationError, merge, reconciliation
from components.log_example_gen.window import resolve_window
from models.section import UserError
from pipeline.simulator import simulate
from pipeline.simulator.config import SimulationConfig
from pipeline.simulator.truth import expected_reconciliation
from tests.components.log_example_gen.log_files import (
    FORMATS,
    attribution_config,
    event,
    exposure,
    features,
    logs_config,
    ms,
    read_records,
    run,
    window_config,
    window_of_days,
    write_file,
    write_logs,
)

WINDOW = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-05 00:30")
FEATURES = features(
    {"name": "user_id", "kind": "id", "side": "user"},
    {"name": "item_id", "kind": "id"},
    {"name": "place", "kind": "id", "side": "context", "column": "position"},
    {"name": "title", "kind": "id"},
    {"name": "price", "kind": "number"},
    {"name": "price_band", "kind": "bucketed", "column": "price", "quantiles": 2},
    {"name": "history", "kind": "id_list", "side": "user", "max_length": 2, "separator": "|"},
)


def full(request, time, **columns):
    values = {"position": 0, "title": "a", "price": 1.5, "history": ["1", "2", "3"]}
    return exposure(request, time, **{**values, **columns})


EXPOSURES = [
    full("plain", "2026-01-02 10:00"),
    full("bought", "2026-01-02 10:00:00.001", price=0.0, user="u2"),
    full("odd", "2026-01-03 10:00", title="", position=-1, item="日本"),
    full("missing", "2026-01-03 11:00", title=None, position=None, price=None, history=None),
    full("quoted", "2026-01-03 12:00", title='a "b", c', history=[]),
]
CLICKS = [
    event("bought", "2026-01-02 10:05"),
    event("bought", "2026-01-02 10:06"),
    event("odd", "2026-01-03 10:00", item="日本"),
]
PURCHASES = [
    event("bought", "2026-01-02 11:00", value=2.5),
    event("bought", "2026-01-02 12:00", value=4.0),
    event("odd", "2026-01-03 11:00", item="日本", value=None),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on the same logs in each format."""
    made = {}
    for form in FORMATS:
        folder = tmp_path_factory.mktemp(form)
        write_logs(folder / "logs", form, EXPOSURES, CLICKS, PURCHASES)
        made[form] = run(folder / "out", logs_config(folder / "logs", form), FEATURES, WINDOW)
    return made


class TestExamples:
    @pytest.mark.parametrize("form", FORMATS)
    def test_values(self, runs, form):
        rows = runs[form].rows
        assert rows["bought", "i1"] == {
            "request_id": [b"bought"],
            "item_id": [b"i1"],
            "user_id": [b"u2"],
            "event_time": [ms("2026-01-02 10:00:00.001")],
            "place": [b"0"],
            "title": [b"a"],
            "price": [0.0],
            "price_band": [0.0],
            "history": [b"1", b"2", b"3"],
            "click": [1],
            "purchase": [1],
            "click_count": [2],
            "click_delay_ms": [5 * 60_000 - 1],
            "purchase_count": [2],
            "purchase_delay_ms": [60 * 60_000 - 1],
            "purchase_value": [6.5],
        }
        assert rows["plain", "i1"]["click"] == [0]
        assert rows["plain", "i1"]["purchase_value"] == [0.0]
        assert rows["plain", "i1"]["click_count"] == [0]
        assert rows["plain", "i1"].get("click_delay_ms", []) == []
        odd = rows["odd", "日本"]
        assert (odd["item_id"], odd["title"], odd["place"]) == (["日本".encode()], [b""], [b"-1"])
        assert (odd["click"], odd["purchase"], odd["purchase_value"]) == ([1], [1], [0.0])
        for name in ("title", "place", "price", "price_band", "history"):
            assert rows["missing", "i1"].get(name, []) == []
        assert rows["quoted", "i1"]["title"] == [b'a "b", c']
        assert rows["quoted", "i1"].get("history", []) == []

    @pytest.mark.parametrize("form", FORMATS[1:])
    def test_formats_give_the_same_examples(self, runs, form):
        assert runs[form].records == runs["parquet"].records
        assert without_files(runs[form].report) == without_files(runs["parquet"].report)

    def test_splits_by_day(self, runs):
        days = {key[0]: row["event_time"][0] < ms("2026-01-03") for key, row in runs["csv"].rows.items()}
        assert days == {"plain": True, "bought": True, "odd": False, "missing": False, "quoted": False}
        assert {split: len(records) for split, records in runs["csv"].records.items()} == {"train": 3, "eval": 4}

    def test_report(self, runs):
        report = runs["jsonl"].report
        assert report["window"] == {
            "first_day": "2026-01-02", "first_eval_day": "2026-01-03", "last_day": "2026-01-03",
            "data_end_ms": ms("2026-01-05 00:30"),
        }
        assert report["logs"]["exposures"]["outcomes"] == {"joined": {"": 7}, "outside_window": {"other_days": 2}}
        assert report["logs"]["click"]["outcomes"] == {"joined": {"": 3}, "orphan": {"no_exposure": 1}}
        assert report["examples"]["train"] == {"rows": 3, "labels": {"click": 1, "purchase": 1}}
        # Of the fillers of four days nothing but the keys is there.
        assert report["logs"]["exposures"]["columns"]["price"] == {"missing": 5, "absent": 0}

    def test_stock_components_read_them(self, runs, tmp_path):
        examples = runs["parquet"].examples
        statistics = standard_artifacts.ExampleStatistics()
        statistics.uri = str(tmp_path / "statistics")
        context = StatisticsGenExecutor.Context(
            beam_pipeline_args=["--runner=FnApiRunner", "--sdk_container_image=none"], tmp_dir=str(tmp_path / "tmp")
        )
        StatisticsGenExecutor(context).Do(
            {"examples": [examples]}, {"statistics": [statistics]}, {"exclude_splits": "[]"}
        )
        found = tfdv.load_stats_binary(str(tmp_path / "statistics/Split-eval/FeatureStats.pb")).datasets[0]
        assert found.num_examples == 4
        by_name = {f.path.step[0] if f.path.step else f.name: f for f in found.features}
        assert by_name["price"].num_stats.common_stats.num_missing == 2
        assert by_name["click"].num_stats.mean == 0.25
        assert by_name["history"].string_stats.common_stats.max_num_values == 3


def without_files(report):
    """What a report says of the rows, whatever files they came from."""
    logs = {
        log: {key: value for key, value in counts.items() if key not in ("files", "rejected")}
        for log, counts in report["logs"].items()
    }
    return {**report, "logs": logs}


class TestSimulatedLogs:
    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize(("skew", "zone"), [("0s", "UTC"), ("30s", "America/New_York")])
    def test_report_is_the_truth(self, tmp_path, form, skew, zone):
        simulated = SimulationConfig.from_json(
            json.dumps(
                {"exposures_per_day": 1500, "days": 8, "users": 500, "items": 200, "format": form, "timezone": zone}
                | {"clock_skew": skew, "seed": 3, "rows_per_file": 700}
            )
        )
        simulate(simulated, tmp_path / "logs")
        logs = logs_config(tmp_path / "logs", form, timezone=zone)
        attribution = attribution_config("30m", "3d", skew)
        # The last two days of the window have no final labels.
        window = resolve_window(logs, attribution, window_config(3, 2, "2026-01-06"))
        read = [{"name": n, "kind": "id"} for n in ("device", "country", "category", "seller", "position")]
        got = run(
            tmp_path / "out",
            logs,
            features(*read, {"name": "price", "kind": "number"}, {**FEATURES[-1].model_dump(), "name": "history"}),
            window,
            attribution,
        )
        expected = expected_reconciliation(tmp_path / "logs", window, attribution)
        counted = {log: {k: counts[k] for k in ("read", "outcomes")} for log, counts in got.report["logs"].items()}
        assert counted == expected["logs"]
        assert got.report["examples"] == expected["examples"]
        outcomes = {(log, o, r) for log, c in counted.items() for o, rs in c["outcomes"].items() for r in rs}
        # Otherwise the equality above says little.
        assert {
            ("exposures", "not_mature", ""),
            ("exposures", "duplicate", ""),
            ("exposures", "rejected", "missing_column"),
            ("exposures", "rejected", "time_out_of_range" if form == "parquet" else "bad_time"),
            ("click", "orphan", "no_exposure"),
            ("click", "orphan", "before_exposure"),
            ("click", "outside_window", "after_window"),
            ("click", "not_mature", "exposure_not_mature"),
            ("purchase", "joined", ""),
            ("purchase", "outside_window", "other_days"),
        } <= outcomes
        rejected = sum(n for c in counted.values() for n in c["outcomes"].get("rejected", {}).values())
        assert len(got.rejected) == rejected > 0
        assert got.report["logs"]["exposures"]["columns"]["device"]["absent"] > 0

    def test_buckets_and_files_do_not_matter(self, tmp_path):
        simulated = SimulationConfig.from_json('{"exposures_per_day": 500, "days": 6, "users": 200, "items": 100}')
        simulate(simulated, tmp_path / "logs")
        logs, attribution = logs_config(tmp_path / "logs", max_rejected=0.2), attribution_config("30m", "1d")
        window = resolve_window(logs, attribution, window_config(2, 1))
        price = features({"name": "price", "kind": "number"}, {"name": "device", "kind": "id"})
        once = run(tmp_path / "a", logs, price, window, attribution)
        for day in (tmp_path / "logs/exposures").iterdir():
            table = pa.concat_tables([pq.read_table(f) for f in sorted(day.iterdir()) if "part-0" in f.name])
            (day / "part-0.parquet").unlink()
            for i, rows in enumerate((table.slice(0, 1), table.slice(1, 1), table.slice(2))):
                pq.write_table(rows, day / f"b-{i}.parquet")
        many = run(tmp_path / "b", logs, price, window, attribution, flags=["--join_memory_gib=0.0005"])
        assert len(list((tmp_path / "a/examples/Split-train").iterdir())) == 2  # one of each day
        shards = sorted(f.name for f in (tmp_path / "b/examples/Split-train").iterdir())
        assert len(shards) > 3
        assert shards[0] == f"data_tfrecord-00000-of-{len(shards):05d}"
        assert {s: sorted(r) for s, r in many.records.items()} == {s: sorted(r) for s, r in once.records.items()}
        assert without_files(many.report) == without_files(once.report)


class TestRejected:
    def test_reasons_and_places(self, tmp_path):
        good = [full(f"r{i}", "2026-01-02 10:00") for i in range(200)]
        bad = {
            "time_out_of_range": full("t", 12),
            "missing_value": full(None, "2026-01-02 10:00"),
            "bad_type": full("p", "2026-01-02 10:00", price="cheap"),
        }
        for form in ("csv", "jsonl"):
            root = tmp_path / form
            write_logs(root, form, [*good, full("x", "2026-01-03 01:00")])
            path = root / "exposures/2026-01-02" / f"bad.{form}"
            write_file(path, [*bad.values()])
            path.write_text(path.read_text() + "oops\n")
            dropped = root / "exposures/2026-01-02" / f"dropped.{form}"
            write_file(dropped, [full("q", "2026-01-02 10:00")], ["request_id", "item_id", "time"])
            got = run(root / "out", logs_config(root, form), FEATURES, WINDOW)
            assert got.report["logs"]["exposures"]["outcomes"]["rejected"] == {
                "bad_type": 1, "malformed_row": 1, "missing_column": 1, "missing_value": 1, "time_out_of_range": 1,
            }
            of_file = {row["row"]: row for row in got.rejected if row["file"] == f"exposures/2026-01-02/bad.{form}"}
            assert {n: row["reason"] for n, row in of_file.items()} == {
                **{n + 1: reason for n, reason in enumerate(bad)}, 4: "malformed_row",
            }
            lines = path.read_text().splitlines()[form == "csv" :]
            assert [of_file[n + 1]["raw"] for n in range(4)] == lines
            assert of_file[3]["detail"] == "column 'price': expected a finite number, found text cheap"
            assert of_file[3]["column"] == "price"
            (lost,) = [row for row in got.rejected if row["reason"] == "missing_column"]
            assert (lost["file"], lost["row"], lost["column"]) == (
                f"exposures/2026-01-02/dropped.{form}", 1, "user_id",
            )

    def test_too_many_stop_the_run(self, tmp_path):
        write_logs(tmp_path, "csv", EXPOSURES, CLICKS, PURCHASES)
        write_file(tmp_path / "clicks/2026-01-02/bad.csv", [event("a", 12), event("b", 13), event(None, 0)])
        with pytest.raises(UserError) as error:
            run(tmp_path / "out", logs_config(tmp_path, "csv"), FEATURES, WINDOW)
        first, *reasons = str(error.value).splitlines()
        assert first == "click: 3 of 7 rows were rejected (42.9%, more than logs.max_rejected = 5.0%):"
        assert reasons[0].startswith("  2 time_out_of_range: clicks/2026-01-02/bad.csv row 1: column 'time': expect")
        assert reasons[0].endswith("found text 12; the row: \"a\",\"i1\",12")
        assert reasons[1].startswith("  1 missing_value: clicks/2026-01-02/bad.csv row 3: column 'request_id'")
        run(tmp_path / "out2", logs_config(tmp_path, "csv", max_rejected=0.5), FEATURES, WINDOW)

    @pytest.mark.parametrize(
        ("form", "column", "value", "message"),
        [
            ("parquet", "price", "cheap", "column 'price': expected a finite number, found text cheap"),
            ("parquet", "history", 1.5, "expected ids separated by '|', or a list of ids, found double 1.5"),
            ("jsonl", "title", {"de": "a"}, "'title': expected text or a whole number, found object {'de': 'a'}"),
            ("csv", "price", "1,5", "column 'price': expected a finite number, found text 1,5"),
        ],
    )
    def test_column_of_a_wrong_type(self, tmp_path, form, column, value, message):
        rows = [full(f"r{i}", f"2026-01-0{1 + i % 4} 10:00", **{column: value}) for i in range(8)]
        for i, day in enumerate(("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")):
            write_file(tmp_path / "exposures" / day / f"a.{form}", rows[i::4])
            for log in ("clicks", "purchases"):
                write_file(tmp_path / log / day / f"a.{form}", [event("r0", f"{day} 10:00", value=1.0)])
        with pytest.raises(UserError) as error:
            run(tmp_path / "out", logs_config(tmp_path, form, max_rejected=1.0), FEATURES, WINDOW)
        first, second, _ = str(error.value).splitlines()
        assert first == "exposures: all 8 rows were rejected:"
        assert second.startswith(f"  8 bad_type: exposures/2026-01-01/a.{form} row 1: column '{column}': ")
        assert message in str(error.value)


class TestWhatStopsARun:
    def test_feature_column_in_no_file(self, tmp_path):
        write_logs(tmp_path, "csv", EXPOSURES)
        wanted = features({"name": "age", "kind": "number", "column": "user_age"})
        with pytest.raises(UserError) as error:
            run(tmp_path / "out", logs_config(tmp_path, "csv"), wanted, WINDOW)
        assert str(error.value) == (
            "exposures: feature 'age' reads column 'user_age', which no file has; there are: "
            "request_id, item_id, user_id, time, position, title, price, history"
        )

    def test_feature_column_in_some_files(self, tmp_path):
        write_logs(tmp_path, "csv", EXPOSURES)
        more = [exposure(f"more{i}", "2026-01-02 10:00") for i in range(3)]
        write_file(tmp_path / "exposures/2026-01-02/more.csv", more)
        got = run(tmp_path / "out", logs_config(tmp_path, "csv"), FEATURES, WINDOW)
        assert got.report["logs"]["exposures"]["columns"]["price"] == {"missing": 8, "absent": 3}
        assert got.rows["more1", "i1"].get("price", []) == []

    def test_unreadable_files_are_named_all(self, tmp_path):
        write_logs(tmp_path, "parquet", EXPOSURES, CLICKS, PURCHASES)
        for path in ("exposures/2026-01-02/x.parquet", "clicks/2026-01-03/y.parquet"):
            whole = write_file(tmp_path / path, EXPOSURES * 50).read_bytes()
            (tmp_path / path).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError) as error:
            run(tmp_path / "out", logs_config(tmp_path), FEATURES, WINDOW)
        lines = str(error.value).splitlines()
        assert [line.split(": ")[0] for line in lines] == [
            f"{tmp_path}/clicks/2026-01-03/y.parquet", f"{tmp_path}/exposures/2026-01-02/x.parquet",
        ]
        assert "cannot be read as Parquet" in lines[0]

    def test_missing_day_before_anything_is_read(self, tmp_path):
        write_logs(tmp_path, "csv", EXPOSURES, days=("2026-01-01", "2026-01-02", "2026-01-04"))
        with pytest.raises(UserError, match=r"exposures: no file for 2026-01-03"):
            run(tmp_path / "out", logs_config(tmp_path, "csv"), FEATURES, WINDOW)
        assert not (tmp_path / "out").exists()

    def test_nothing_mature(self, tmp_path):
        write_logs(tmp_path, "csv", EXPOSURES)
        young = WINDOW.model_copy(update={"data_end_ms": ms("2026-01-04 00:00")})
        with pytest.raises(UserError, match=r"eval: no example from 2026-01-03 to 2026-01-03") as error:
            run(tmp_path / "out", logs_config(tmp_path, "csv"), FEATURES, young)
        assert "not_mature" in str(error.value)

    @pytest.mark.parametrize(
        ("feature", "message"),
        [
            ({"name": "click", "kind": "id"}, "taken by the label of event 'click'"),
            ({"name": "purchase_value", "kind": "number"}, "taken by the value of event 'purchase'"),
            ({"name": "click_count", "kind": "number"}, "taken by the count of event 'click'"),
            ({"name": "click_delay_ms", "kind": "number"}, "taken by the delay of event 'click'"),
            ({"name": "weight", "kind": "number"}, "taken by the weight of the example"),
            ({"name": "event_time", "kind": "number"}, "taken by the time of the exposure"),
            ({"name": "item_id", "kind": "number"}, "expected kind id and column 'item_id'"),
            ({"name": "user_id", "kind": "id", "column": "uid"}, "expected kind id and column 'user_id'"),
        ],
    )
    def test_names_that_are_taken(self, tmp_path, feature, message):
        with pytest.raises(UserError, match=message):
            run(tmp_path / "out", logs_config(tmp_path), features(feature), WINDOW)

    def test_rows_without_an_outcome(self):
        specs = {"exposures": None}
        counts = merge([
            {"logs": {"exposures": {
                "read": 3, "rejected": {"bad_time": {"time": {"rows": 1, "example": ["f", 2, "", ""]}}}, "columns": {},
                "files": {"f": {"day": "2026-01-02", "read": 3, "rejected": {"bad_time": 1}}},
            }}},
            {"outcomes": {"exposures": {"2026-01-02": {"joined": {"": 1}}}},
             "examples": {"2026-01-02": {"rows": 1, "labels": {}}}},
        ])
        with pytest.raises(ReconciliationError, match="exposures: 3 rows were read, but 2 have an outcome"):
            reconciliation(counts, specs, WINDOW)


class TestTimes:
    def test_units_and_zones(self, tmp_path):
        instant = ms("2026-01-02 23:30:00")  # the 3rd in Berlin
        write_logs(tmp_path, "csv", EXPOSURES)
        write_file(tmp_path / "clicks/2026-01-02/us.csv", [event("late", (instant + 1000) * 1000)])
        for day in ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"):
            (tmp_path / "clicks" / day / "part-0.csv").write_text("request_id,item_id,time\n")
            row = {**full(day, 0), "time": f"{day} 12:00:00"}
            if day == "2026-01-03":
                row = {**full("late", 0), "time": "2026-01-03T00:30:00+01:00"}
            write_file(tmp_path / "exposures" / day / "part-0.csv", [row])
        logs = logs_config(
            tmp_path, "csv", timezone="Europe/Berlin", exposures={"time_unit": "iso8601"}, clicks={"time_unit": "us"},
        )
        got = run(tmp_path / "out", logs, FEATURES, WINDOW)
        row = got.rows["late", "i1"]
        assert (row["event_time"], row["click"]) == ([instant], [1])
        assert got.rows["2026-01-02", "i1"]["event_time"] == [ms("2026-01-02 11:00")]
        assert got.report["examples"]["eval"]["rows"] == 1


class TestComponent:
    def test_parameters_and_outputs(self):
        component = LogExampleGen(
            logs=logs_config("/logs").canonical_json(),
            attribution=attribution_config().canonical_json(),
            sampling="{}",
            features="[]",
            **{name: str(value) for name, value in WINDOW.model_dump(mode="json").items()},
            inputs_fingerprint="abc",
            joined_uri="/joined",
            join_fingerprint="ghi",
            code_fingerprint="def",
        )
        assert set(component.outputs) == {"examples", "report"}
        assert component.outputs["examples"].type is standard_artifacts.Examples
        assert component.outputs["report"].type_name == "seesaw.LogReport"
        assert component.exec_properties["first_day"] == "2026-01-02"
        assert component.exec_properties["data_end_ms"] == str(WINDOW.data_end_ms)

    def test_examples_artifact(self, runs):
        examples = runs["csv"].examples
        assert json.loads(examples.split_names) == ["train", "eval"]
        assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
        assert examples.get_string_custom_property("last_day") == str(date(2026, 1, 3))

    def test_nothing_else_lies_among_the_examples(self, runs):
        root = Path(runs["csv"].examples.uri)
        assert sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()) == [
            "Split-eval/data_tfrecord-00000-of-00001", "Split-train/data_tfrecord-00000-of-00001",
        ]
        assert len(read_records(root / "Split-eval")) == 4
