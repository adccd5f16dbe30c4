import json
import random

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import standard_artifacts

from components.example_validator import ValidationConfig
from components.example_validator.executor import Executor, explain, with_drift
from components.schema import infer_schema
from models.section import UserError
from tests.components.toy_artifacts import artifact, statistics_of, write_statistics

ROWS = 500
LABELS = ["click", "purchase"]


def columns(seed=0, **changes):
    rng = random.Random(seed)
    made = {
        "tab": [[rng.choice("aabc")] for _ in range(ROWS)],
        "price": [[rng.gauss(10, 2)] for _ in range(ROWS)],
        "click": [[int(i % 10 == 0)] for i in range(ROWS)],
        "purchase": [[int(i % 50 == 0)] for i in range(ROWS)],
    }
    made.update(changes)
    return {name: values for name, values in made.items() if values is not None}


@pytest.fixture(scope="module")
def schema():
    return infer_schema(statistics_of(columns()), LABELS)


def validate(tmp_path, schema, train=None, evaluation=None, previous=None, drift=None):
    schema_artifact = artifact(standard_artifacts.Schema, tmp_path / "schema")
    (tmp_path / "schema/schema.pbtxt").write_text(text_format.MessageToString(schema))
    baseline = artifact(standard_artifacts.Model, tmp_path / "baseline")
    if previous:
        folder = tmp_path / "baseline/Format-Serving/assets.extra/seesaw/published/statistics"
        folder.mkdir(parents=True)
        (folder / "FeatureStats.pb").write_bytes(statistics_of(previous).SerializeToString())
    by_split = {"train": statistics_of(train or columns()), "eval": statistics_of(evaluation or columns(1))}
    anomalies = artifact(standard_artifacts.ExampleAnomalies, tmp_path / "anomalies")
    Executor().Do(
        {
            "statistics": [write_statistics(tmp_path / "statistics", by_split)],
            "schema": [schema_artifact],
            "baseline": [baseline],
        },
        {"anomalies": [anomalies]},
        {"drift": json.dumps(drift or {}), "labels": json.dumps(LABELS), "code_fingerprint": ""},
    )
    return anomalies


def read_anomalies(tmp_path, split):
    return anomalies_pb2.Anomalies.FromString((tmp_path / f"anomalies/Split-{split}/SchemaDiff.pb").read_bytes())


def mistakes(tmp_path, schema, **given):
    with pytest.raises(UserError) as caught:
        validate(tmp_path, schema, **given)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"the examples have {len(lines)} anomal")
    return [line.strip() for line in lines]


def test_good_examples_pass(tmp_path, schema):
    anomalies = validate(tmp_path, schema)
    assert anomalies.get_json_value_custom_property("blessed") == {"train": 1, "eval": 1}
    assert anomalies.split_names == '["train", "eval"]'
    for split in ("train", "eval"):
        assert not read_anomalies(tmp_path, split).anomaly_info


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"price": [["12 EUR"]] * ROWS},
            "feature 'price': Unexpected data type: Expected data of type: FLOAT but got STRING",
        ),
        (
            {"price": [None] * 50 + [[1.0]] * (ROWS - 50)},
            "feature 'price': Column dropped: The feature was present in fewer examples than expected: "
            "minimum fraction = 1.000000, actual = 0.900000",
        ),
        ({"price": None}, "feature 'price': Column dropped: Column is completely missing"),
        ({"colour": [["red"]] * ROWS}, "feature 'colour': New column (column in data but not in schema)"),
        (
            {"tab": [["a"], ["z"]] * (ROWS // 2)},
            "feature 'tab': Unexpected string values: Examples contain values missing from the schema: z (~50%); "
            "expected at least 95% of a, b, c",
        ),
        (
            {"click": [[0], [2]] * (ROWS // 2)},
            "feature 'click': Out-of-range values: Unexpectedly large value: 2; expected at least 0 and at most 1",
        ),
        (
            {"price": [[1.0, 2.0]] * ROWS},
            "feature 'price': Superfluous values: Some examples have more values than expected; expected at most 1",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "eval"])
def test_anomalies_stop_the_run_in_words(tmp_path, schema, changes, expected, split):
    given = {"train" if split == "train" else "evaluation": columns(**changes)}
    assert mistakes(tmp_path, schema, **given) == [f"{split}: {expected}"]
    assert read_anomalies(tmp_path, split).anomaly_info


def test_a_few_new_values_of_a_domain_are_well(tmp_path, schema):
    validate(tmp_path, schema, train=columns(tab=[["z"]] * 20 + [["a"]] * (ROWS - 20)))


def test_warnings_do_not_stop_a_run(schema):
    anomalies = anomalies_pb2.Anomalies()
    for name, severity in [("price", anomalies_pb2.AnomalyInfo.WARNING), ("tab", anomalies_pb2.AnomalyInfo.ERROR)]:
        anomalies.anomaly_info[name].severity = severity
        anomalies.anomaly_info[name].reason.add(short_description="Odd", description="something\n is  odd.")
    anomalies.dataset_anomaly_info.reason.add(short_description="Few rows", description="x" * 400)
    lines = list(explain(anomalies, schema))
    assert lines == [f"dataset: Few rows: {'x' * 278}...", "feature 'tab': Odd: something is odd"]
    assert len(lines[0]) == 300


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("label", LABELS)
def test_label_of_one_class_stops_the_run(tmp_path, schema, split, label, value):
    given = {"train" if split == "train" else "evaluation": columns(**{label: [[value]] * ROWS})}
    assert mistakes(tmp_path, schema, **given) == [
        f"{split}: label '{label}': expected both 0 and 1, found only {value} in {ROWS} rows"
    ]


def test_missing_label_stops_the_run(tmp_path, schema):
    assert mistakes(tmp_path, schema, train=columns(purchase=None)) == [
        "train: label 'purchase': expected a column, found none",
        "train: feature 'purchase': Column dropped: Column is completely missing",
    ]


def test_all_mistakes_are_told_at_once(tmp_path, schema):
    lines = mistakes(
        tmp_path, schema, train=columns(click=[[0]] * ROWS, price=None), evaluation=columns(tab=[["z"]] * ROWS)
    )
    assert [line.split(":")[0] for line in lines] == ["train", "train", "eval"]


DRIFT = {"tab": 0.2, "price": 0.1}


def test_drift_from_the_window_of_the_model_in_service(tmp_path, schema):
    dearer = [[random.Random(i).gauss(14, 2)] for i in range(ROWS)]
    train = columns(tab=[["a"], ["b"], ["c"], ["c"]] * (ROWS // 4), price=dearer)
    lines = mistakes(tmp_path, schema, train=train, previous=columns(), drift=DRIFT)
    assert [line.split(": ")[:3] for line in lines] == [
        ["train", "feature 'price'", "High approximate Jensen-Shannon divergence between current and previous"],
        ["train", "feature 'tab'", "High Linfty distance between current and previous"],
    ]
    shares = {value: sum(row == [value] for row in columns()["tab"]) / ROWS for value in "abc"}
    distance = max(abs(shares["a"] - 0.25), abs(shares["b"] - 0.25), abs(shares["c"] - 0.5))
    assert f"is {distance:.6g} (" in lines[1] and "above the threshold 0.2" in lines[1]


@pytest.mark.parametrize(
    "previous, drift",
    [
        (None, DRIFT),
        (columns(2), DRIFT),
        (columns(2, tab=[["c"]] * ROWS), {"price": 0.1}),
        (columns(2, tab=[["c"]] * ROWS), {}),
    ],
)
def test_no_drift_no_previous_window_or_no_threshold(tmp_path, schema, previous, drift):
    validate(tmp_path, schema, previous=previous, drift=drift)


def test_drift_is_looked_at_in_training_days_only(tmp_path, schema):
    validate(tmp_path, schema, evaluation=columns(tab=[["c"]] * ROWS), previous=columns(), drift=DRIFT)


def test_threshold_for_an_unknown_feature(tmp_path, schema):
    with pytest.raises(UserError, match="validation.drift: expected a feature of the schema, got 'prise'"):
        validate(tmp_path, schema, drift={"prise": 0.1})


def test_kind_of_drift_follows_the_type(schema):
    limited = {f.name: f.drift_comparator for f in with_drift(schema, DRIFT).feature}
    assert limited["tab"].infinity_norm.threshold == 0.2
    assert limited["price"].jensen_shannon_divergence.threshold == 0.1
    assert not any(f.HasField("drift_comparator") for f in schema.feature)


def test_configuration():
    config = ValidationConfig.from_json('{"schema": "schema.pbtxt", "drift": {"tab": 0.2}}')
    assert (config.schema_path, config.drift) == ("schema.pbtxt", {"tab": 0.2})
    for wrong in ['{"schema": "s", "drift": {"tab": 0}}', '{"schema": "s", "drift": {"tab": "0.2"}}', "{}"]:
        with pytest.raises(ValueError):
            ValidationConfig.from_json(wrong)
