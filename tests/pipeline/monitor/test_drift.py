import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline.monitor.drift import distances, read_statistics
from tests.components.toy_artifacts import statistics_of


def schema(**kinds):
    made = schema_pb2.Schema()
    for name, kind in kinds.items():
        made.feature.add(name=name, type=kind)
    return text_format.MessageToString(made)


def day(tab, price):
    return statistics_of({"tab": [[t] for t in tab], "price": [[p] for p in price]})


def test_distances_of_texts_and_numbers(tmp_path):
    rng = np.random.default_rng(0)
    then = day(["a"] * 60 + ["b"] * 40, rng.normal(0, 1, 100).tolist())
    now = day(["a"] * 45 + ["b"] * 40 + ["c"] * 15, rng.normal(3, 1, 100).tolist())
    text = schema(tab="BYTES", price="FLOAT", other="FLOAT")
    found = distances(then, now, text, ["tab", "price", "unknown"])
    assert set(found) == {"tab", "price"}
    # The largest difference of a share: 60 to 45 %.
    assert found["tab"] == pytest.approx(0.15)
    assert 0.5 < found["price"] <= 1
    same = distances(then, then, text, ["tab", "price"])
    assert all(v == pytest.approx(0, abs=1e-9) for v in same.values())
    (tmp_path / "statistics").write_bytes(then.SerializeToString())
    assert read_statistics(tmp_path / "statistics") == then
