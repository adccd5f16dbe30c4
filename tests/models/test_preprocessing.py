"""The transform graph, on rows with known answers."""

import numpy as np
import pytest
import tensorflow as tf

from models.preprocessing import features_from_json, features_to_json, table_rows, vocabulary_name
from tests.transforms import FEATURES, LABELS, raw_rows, serialize


@pytest.fixture(scope="module")
def rows():
    return raw_rows(200)


@pytest.fixture(scope="module")
def transformed(transform, rows):
    spec = transform.raw_feature_spec()
    layer = transform.transform_features_layer()
    return {k: v.numpy() for k, v in layer(tf.io.parse_example([serialize(r) for r in rows], spec)).items()}


def test_features_survive_json():
    assert features_from_json(features_to_json(FEATURES)) == FEATURES


def test_shapes_and_types(transformed, rows):
    n = len(rows)
    for f in FEATURES:
        shape = (n, 3) if f.kind == "id_list" else (n,)
        dtype = np.float32 if f.kind == "number" else np.int64
        assert (transformed[f.name].shape, transformed[f.name].dtype) == (shape, dtype), f.name
    for label in LABELS:
        assert transformed[label].tolist() == [r[label][0] for r in rows]


def test_weights_have_the_mean_1_over_the_rows_that_reached_a_step(transformed, rows):
    weights = np.array([row["weight"][0] for row in rows])
    clicked = np.array([row["click"][0] for row in rows]) == 1
    expected = np.stack([weights / weights.mean(), weights / weights[clicked].mean()], axis=1)
    np.testing.assert_allclose(transformed["weight"], expected, rtol=1e-5)


def test_ids_are_missing_known_or_out_of_vocabulary(transform, transformed, rows):
    known = {token: i + 1 for i, token in enumerate(transform.vocabulary_by_name(vocabulary_name("item")))}
    assert b"once" not in known  # seen once, and min_count is 2
    for row, got in zip(rows, transformed["item"]):
        if not row["item"]:
            assert got == 0
        elif row["item"][0] in known:
            assert got == known[row["item"][0]]
        else:
            assert len(known) < got <= len(known) + 2


def test_vocabulary_is_ordered_by_frequency(transform, rows):
    tokens = [r["item"][0] for r in rows if r["item"]]
    counts = [tokens.count(t) for t in transform.vocabulary_by_name(vocabulary_name("item"))]
    assert counts == sorted(counts, reverse=True) and min(counts) >= 2


def test_lists_keep_their_newest_values_in_the_vocabulary_they_share(transform, transformed, rows):
    known = {token: i + 1 for i, token in enumerate(transform.vocabulary_by_name(vocabulary_name("item")))}
    for row, got in zip(rows, transformed["history"]):
        expected = [known[t] for t in row["history"][-3:]]
        assert got.tolist() == expected + [0] * (3 - len(expected))


def test_hashed_ids_stay_within_their_rows(transform, transformed):
    assert transformed["seller"].min() >= 1 and transformed["seller"].max() <= 5


def test_tokens_never_seen_share_the_rows_behind_the_vocabulary(transform):
    items, users = (transform.vocabulary_size_by_name(vocabulary_name(name)) for name in ("item", "user"))
    new = [b"new%d" % i for i in range(40)]
    rows = [raw_rows(2)[1] | {"item": [t], "history": [b"i1", t], "user": [t]} for t in [*new, *new]]
    got = transform.transform_features_layer()(
        tf.io.parse_example([serialize(r) for r in rows], transform.raw_feature_spec())
    )
    item = got["item"].numpy()
    assert set(item) == {items + 1, items + 2}  # both of oov_buckets
    assert np.array_equal(item[:40], item[40:])
    assert np.array_equal(got["history"][:, 1], item) and (got["history"][:, 0].numpy() <= items).all()
    assert set(got["user"].numpy()) == {users + 1}


def test_hashing_gives_a_token_the_same_row_everywhere_and_uses_all_rows(transform):
    tokens = [b"shop%d" % i for i in range(60)]
    rows = [raw_rows(2)[1] | {"seller": [t]} for t in tokens] + [raw_rows(2)[1] | {"seller": s} for s in ([], [b""])]
    got = transform.transform_features_layer()(
        tf.io.parse_example([serialize(r) for r in rows], transform.raw_feature_spec())
    )["seller"].numpy()
    assert got[:60].tolist() == (1 + tf.strings.to_hash_bucket_fast(tokens, 5)).numpy().tolist()
    assert set(got[:60]) == {1, 2, 3, 4, 5} and not got[60:].any()


def test_numbers_are_scaled_and_missing_ones_are_the_mean(transformed, rows):
    logs = np.log1p([r["price"][0] for r in rows if r["price"]])
    got = transformed["price"]
    assert (got[[not r["price"] for r in rows]] == 0).all()
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(got[[bool(r["price"]) for r in rows]], expected, rtol=1e-4, atol=1e-5)
    ages = np.array([r["age"][0] for r in rows])
    np.testing.assert_allclose(transformed["age"], (ages - ages.min()) / (ages.max() - ages.min()), rtol=1e-5)


def test_buckets_start_at_1(transformed, rows):
    hours = np.array([r["hour"][0] for r in rows])
    assert transformed["hour"].tolist() == (1 + np.digitize(hours, [6, 12, 18])).tolist()
    counts = np.bincount(transformed["stock"], minlength=5)
    assert counts[0] == 0 and len(counts) == 5 and counts[1:].min() > len(rows) / 4 * 0.7


@pytest.mark.parametrize("value", [[float("nan")], [float("inf")], []])
def test_a_number_that_is_none_counts_as_missing(transform, value):
    row = raw_rows(2)[1] | {"price": value, "hour": value}
    parsed = tf.io.parse_example([serialize(row)], transform.raw_feature_spec())
    got = transform.transform_features_layer()(parsed)
    assert float(got["price"][0]) == 0.0 and int(got["hour"][0]) == 0


def test_zero_is_a_value_and_empty_text_is_missing(transform):
    row = raw_rows(2)[1] | {"hour": [0.0], "item": [b""], "history": [b"", b"i1"]}
    got = transform.transform_features_layer()(tf.io.parse_example([serialize(row)], transform.raw_feature_spec()))
    assert int(got["hour"][0]) == 1 and int(got["item"][0]) == 0
    assert int(got["history"][0, 0]) > 0 and int(got["history"][0, 1]) == 0


def test_tables_have_rows_for_padding_tokens_and_unknown_ones(transform):
    rows = table_rows(FEATURES, transform)
    items = transform.vocabulary_size_by_name(vocabulary_name("item"))
    users = transform.vocabulary_size_by_name(vocabulary_name("user"))
    assert rows == {"user": 1 + users + 1, "item": 1 + items + 2, "seller": 6, "hour": 5, "stock": 5}
