from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipeline.sweep.rows import Batches
from pipeline.sweep.transform import _days


def columns(rows):
    return {
        "item": np.arange(rows, dtype=np.int32),
        "list": np.arange(2 * rows, dtype=np.int32).reshape(rows, 2),
        "price": np.linspace(0, 1, rows).astype(np.float32),
        "click": (np.arange(rows) % 2).astype(np.int8),
        "purchase": (np.arange(rows) % 4 == 3).astype(np.int8),
        "@user": np.arange(rows, dtype=np.int32),
    }


def batches(rows, **options):
    return Batches(columns(rows), ["item", "list", "price"], ["click", "purchase"], batch_size=8, seed=1, **options)


def items(dataset):
    return [features["item"].numpy().tolist() for features, _ in dataset]


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    of = batches(50)
    first, again, second = (items(of.epoch(e)) for e in (0, 0, 1))
    assert of.steps_per_epoch == len(first) == 7 and first == again != second
    for epoch in (first, second):
        flat = [i for batch in epoch for i in batch]
        assert sorted(flat) == list(range(50)) and flat != sorted(flat)
    assert items(of.epoch(1, skip=3)) == second[3:]


def test_features_and_labels_stay_with_their_row():
    for features, labels in batches(20).epoch(0):
        item = features["item"].numpy()
        assert features["item"].dtype == features["list"].dtype == "int64" and labels.dtype == "float32"
        np.testing.assert_array_equal(features["list"], np.stack([2 * item, 2 * item + 1], axis=1))
        np.testing.assert_allclose(features["price"], item / 19, rtol=1e-6)
        np.testing.assert_array_equal(labels, np.stack([item % 2, item % 4 == 3], axis=1))


def test_only_the_chosen_rows():
    chosen = np.arange(30) % 3 == 0
    of = batches(30, chosen=chosen)
    assert of.steps_per_epoch == 2 and sorted(i for b in items(of.epoch(0)) for i in b) == list(range(0, 30, 3))
    assert [f["item"].numpy().tolist() for f in of.in_order(100)] == [list(range(0, 30, 3))]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_days_are_those_of_the_zone(zone):
    rng = np.random.default_rng(0)
    # Around the change to summer time in New York, on 2026-03-08.
    times = 1_772_900_000_000 + rng.integers(0, 3 * 86_400_000, 200)
    expected = [datetime.fromtimestamp(t / 1000, ZoneInfo(zone)).date().toordinal() - 719163 for t in times]
    assert _days(times, zone).tolist() == expected
