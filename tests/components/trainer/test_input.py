import numpy as np
import pytest
import tensorflow as tf

from components.trainer.input import count_examples
from tests.components.trainer.toy_training import FILES, ROWS, examples, write_rows

ALL = list(range(FILES * ROWS))


@pytest.fixture(scope="module", params=["", "GZIP"], ids=["plain", "gzip"])
def pattern(request, tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("examples"), compression=request.param)


def rows(dataset):
    return np.concatenate([features["row"] for features, _ in dataset]).tolist()


def test_batches_are_features_and_labels_in_the_order_of_the_chain(pattern):
    features, labels = next(iter(examples(pattern).in_order()))
    assert set(features) == {"item", "row"} and labels.dtype == tf.float32
    i = features["row"].numpy().astype(int)
    assert labels.numpy().tolist() == [[x % 2, x % 4 == 3] for x in i]


@pytest.mark.parametrize("cache", [False, True])
def test_every_row_is_read_once(pattern, cache):
    read = examples(pattern, cache=cache)
    assert sorted(rows(read.in_order())) == sorted(rows(read.epoch(0))) == sorted(rows(read.epoch(1))) == ALL
    assert read.count == count_examples(pattern) == FILES * ROWS
    assert [len(labels) for _, labels in read.epoch(0)] == [16] * 7 + [8]
    assert read.steps_per_epoch == 8


@pytest.mark.parametrize("cache", [False, True])
def test_order_is_a_function_of_seed_and_epoch(pattern, cache):
    read = examples(pattern, cache=cache)
    orders = [rows(read.epoch(epoch)) for epoch in range(3)]
    again = examples(pattern, cache=cache)
    # In another order of asking: nothing is kept between epochs.
    assert [rows(again.epoch(epoch)) for epoch in (2, 0, 1)] == [orders[2], orders[0], orders[1]]
    assert len({tuple(order) for order in (*orders, ALL)}) == 4
    assert rows(examples(pattern, cache=cache, seed=2).epoch(0)) != orders[0]
    assert rows(read.in_order()) == rows(again.in_order())


def test_portions_are_shuffled_in_themselves_and_each_in_another_way(pattern):
    read = examples(pattern, shuffle_rows=40)
    order = rows(read.epoch(0))
    assert sorted(order) == ALL and rows(read.epoch(0)) == order
    portions = np.split(np.array(order), len(ALL) // 40)
    # Files are shorter than the pieces in which they are read, so a portion holds the rows of the next ones.
    assert [len(set(portion // ROWS)) for portion in portions] == [-(-40 // ROWS)] * len(portions)
    ranks = [tuple(portion.argsort().argsort()) for portion in portions]
    assert len({*ranks, tuple(range(40))}) == len(portions) + 1


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("skip", [0, 1, 5, 7, 8])
def test_skipped_batches_are_the_first_ones(pattern, cache, skip):
    read = examples(pattern, cache=cache)
    found = [features["row"].numpy().tolist() for features, _ in read.epoch(1)]
    assert [features["row"].numpy().tolist() for features, _ in read.epoch(1, skip)] == found[skip:]


def test_cached_rows_are_read_from_the_files_once(tmp_path):
    (pattern,) = write_rows(tmp_path / "rows")
    read = examples([pattern], cache=True)
    first = rows(read.epoch(0))
    for file in tmp_path.glob("rows/part-*"):
        file.unlink()
    assert rows(read.epoch(0)) == first and sorted(rows(read.epoch(1))) == ALL


def test_no_rows(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "part-0")):
        pass
    for cache in (False, True):
        assert examples([str(tmp_path / "part-*")], cache=cache).count == 0
