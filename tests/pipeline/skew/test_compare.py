"""Features side by side: what counts as a difference, and by how much."""

import numpy as np
import pyarrow as pa
import pytest

from models.features import IdFeature, IdListFeature, NumberFeature
from pipeline.skew.compare import feature_skew, score_skew

PRICE = NumberFeature(kind="number", name="price", side="item")
ITEM = IdFeature(kind="id", name="item", side="item", dimension=4)
VIEWED = IdListFeature(kind="id_list", name="viewed", side="user", dimension=4, max_length=5)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def compare(feature, served, training, kind, number=1e-6):
    rows = len(served)
    keys = (column([f"r{i}" for i in range(rows)]), column(["i"] * rows))
    changes = np.arange(rows) / 10
    return feature_skew(feature, column(served, kind), column(training, kind), keys, changes, number)


def test_numbers():
    served, training = [1.0, 2.0, None, 4.0, None, 100.0], [1.0, 2.5, None, None, 5.0, 100.00001]
    found = compare(PRICE, served, training, pa.float64())
    assert (found.rows, found.only_served, found.only_training) == (3, 1, 1)
    assert found.share == 0.5 and found.largest == 0.5
    assert found.mean == pytest.approx((0 + 0.5 + (np.float32(100.00001) - np.float32(100))) / 3)
    assert found.score_change == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    assert found.examples == (
        ("r1", "i", "2", "2.5"),
        ("r3", "i", "4", "missing"),
        ("r4", "i", "missing", "5"),
    )
    assert compare(PRICE, served, training, pa.float64(), number=0.2).rows == 2


def test_what_float32_cannot_tell_apart_is_the_same():
    assert compare(PRICE, [0.1], [float(np.float32(0.1))], pa.float64(), number=0.0).rows == 0


def test_ids_and_lists():
    found = compare(ITEM, ["a", "b", None, "", "c"], ["a", "x", None, None, None], pa.string())
    assert (found.rows, found.only_served, found.only_training, found.mean) == (2, 1, 0, None)
    lists = pa.list_(pa.string())
    found = compare(VIEWED, [["a", "b"], ["a"], [], None, ["ab"]], [["a", "b"], ["b"], None, [], ["a", "b"]], lists)
    assert found.rows == 2 and found.examples[1] == ("r4", "i", "ab", "a b")


def test_the_same_is_no_skew():
    found = compare(ITEM, ["a", None], ["a", None], pa.string())
    assert (found.rows, found.share, found.score_change, found.examples) == (0, 0.0, None, ())


def test_scores():
    served = {"pctr": np.array([0.1, 0.2, 0.3], np.float32), "pcvr": np.array([0.5, 0.5, np.nan], np.float32)}
    other = {"pctr": np.array([0.1, 0.25, 0.300001], np.float32), "pcvr": np.array([0.5, 0.5, 0.5], np.float32)}
    pctr, pcvr = score_skew(served, other, ("pctr", "pcvr"), 1e-5)
    assert (pctr.rows, pctr.share) == (1, pytest.approx(1 / 3))
    assert pctr.largest == pytest.approx(0.05, rel=1e-5) and pctr.mean == pytest.approx(0.050001 / 3, rel=1e-3)
    assert pcvr.rows == 1  # NaN is not the same as anything
