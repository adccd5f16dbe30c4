import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components.example_validator.executor import find_anomalies
from components.schema import infer_schema, with_weight
from components.schema.executor import Executor
from models.features import IdFeature
from models.section import UserError
from tests.components.toy_artifacts import artifact, statistics_of

ROWS = 200


def columns():
    return {
        "request_id": [[f"r{i}"] for i in range(ROWS)],
        "user_id": [[f"user-{i % 7}"] for i in range(ROWS)],
        "item_id": [[str(i % 11)] for i in range(ROWS)],
        "event_time": [[1_700_000_000_000 + i] for i in range(ROWS)],
        "gender": [["f"], ["m"], None, ["f"]] * (ROWS // 4),
        "device": [["phone"], ["tablet"]] * (ROWS // 2),
        "city": [[f"city {i % 50}"] for i in range(ROWS)],
        "tab": [[str(i % 5)] for i in range(ROWS)],
        "history": [[f"{j}" for j in range(i % 4)] for i in range(ROWS)],
        "moods": [["glad", "sad"][: 1 + i % 2] for i in range(ROWS)],
        "price": [[0.5 * i] for i in range(ROWS)],
        "age": [[float(i)] if i % 10 else None for i in range(ROWS)],
        "click": [[int(i % 10 == 0)] for i in range(ROWS)],
        "purchase": [[int(i % 50 == 0)] for i in range(ROWS)],
    }


@pytest.fixture(scope="module")
def inferred():
    return infer_schema(statistics_of(columns()), labels=["click", "purchase"])


@pytest.fixture(scope="module")
def features(inferred):
    return {feature.name: feature for feature in inferred.feature}


def test_every_column_is_there_in_the_order_of_names(inferred):
    assert [feature.name for feature in inferred.feature] == sorted(columns())


def test_labels_are_0_or_1(features):
    for name in ("click", "purchase"):
        assert features[name].type == schema_pb2.INT
        assert (features[name].int_domain.min, features[name].int_domain.max) == (0, 1)
        assert features[name].presence.min_fraction == 1.0


def test_types(features):
    assert {name for name, f in features.items() if f.type == schema_pb2.FLOAT} == {"price", "age"}
    assert {name for name, f in features.items() if f.type == schema_pb2.INT} == {"event_time", "click", "purchase"}


def test_values_are_required_where_none_was_missing(features):
    required = {name for name, f in features.items() if f.presence.min_fraction == 1.0}
    assert required == {"click", "purchase", "price", "device", "city", "tab"}
    assert all(f.presence.min_count == 1 for f in features.values())


def test_only_text_with_few_values_has_a_domain(inferred, features):
    assert {d.name: list(d.value) for d in inferred.string_domain} == {
        "device": ["phone", "tablet"],
        "gender": ["f", "m"],
    }
    assert {name for name, f in features.items() if f.type == schema_pb2.BYTES and f.WhichOneof("domain_info")} == {
        "device",
        "gender",
    }
    assert features["device"].distribution_constraints.min_domain_mass == 0.95


def test_lists_may_have_any_length(features):
    for name, feature in features.items():
        assert feature.HasField("value_count") == (name not in ("history", "moods")), name
        if feature.HasField("value_count"):
            assert feature.value_count.max == 1


def test_no_shapes_so_every_column_is_read_as_sparse(features):
    assert not any(feature.HasField("shape") for feature in features.values())


def test_its_own_statistics_fit(inferred):
    anomalies = find_anomalies(statistics_of(columns()), inferred, None)
    assert dict(anomalies.anomaly_info) == {}


def run(tmp_path, text):
    schema = artifact(standard_artifacts.Schema, tmp_path / "schema")
    Executor().Do({}, {"schema": [schema]}, {"schema_text": text})
    return schema


def test_curated_schema_is_written_where_tfx_reads_it(tmp_path, inferred):
    schema = run(tmp_path, text_format.MessageToString(inferred))
    assert io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri)) == inferred
    assert io_utils.get_only_uri_in_dir(schema.uri).endswith("schema.pbtxt")


@pytest.mark.parametrize(
    "text, message",
    [
        ('feature {\n  nome: "a" }', "line:column 2:3 .*nome"),
        ("", "at least one feature"),
        ('feature { name: "a" } feature { name: "a" }', "feature 'a' is listed twice"),
    ],
)
def test_wrong_schema_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, text)
    assert not list((tmp_path / "schema").iterdir())


def test_features_that_expect_unknown_ids_get_no_domain():
    statistics = statistics_of(columns())
    features = [
        IdFeature(kind="id", name="device", side="context", hash_buckets=10),
        IdFeature(kind="id", name="gender", side="user"),
    ]
    schema = infer_schema(statistics, labels=["click", "purchase"], features=features)
    domains = {f.name: f.domain for f in schema.feature}
    assert domains["device"] == "" and domains["gender"] == "gender"
    assert "device" not in [d.name for d in schema.string_domain]


def test_the_weight_of_sampled_rows_is_in_the_schema_where_rows_are_sampled():
    text = '# a comment\nfeature { name: "price" type: FLOAT }\n'
    sampled = with_weight(text, sampled=True)
    assert sampled.startswith(text)  # what a person wrote stays as it is
    schema = text_format.Parse(sampled, schema_pb2.Schema())
    assert [(f.name, f.type, f.presence.min_fraction) for f in schema.feature] == [
        ("price", schema_pb2.FLOAT, 0.0), ("weight", schema_pb2.FLOAT, 1.0),
    ]  # fmt: skip
    for weight, wrong in ((4.0, []), (0.5, ["weight"])):
        rows = statistics_of({"price": [[1.0]], "weight": [[weight]]})
        assert list(find_anomalies(rows, schema, None).anomaly_info) == wrong
    # Nothing is there twice, and turning it off again takes it out.
    assert with_weight(sampled, sampled=True) == sampled
    back = text_format.Parse(with_weight(sampled, sampled=False), schema_pb2.Schema())
    assert [f.name for f in back.feature] == ["price"]
    for untouched in ("", "feature { nome }", text):
        assert with_weight(untouched, sampled=False) == untouched
