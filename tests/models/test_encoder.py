"""The encoder: its merged, row-sparse look-ups against plain look-ups in one table per feature."""

import numpy as np
import pytest
import tensorflow as tf

from models.encoder import Encoder, embedding_slots
from tests.transforms import FEATURES

ROWS = {"user": 10, "item": 8, "seller": 6, "hour": 5, "stock": 5}


@pytest.fixture
def encoder():
    return Encoder(FEATURES, ROWS, seed=0)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    ids = {f.name: rng.integers(0, ROWS[f.table], 16) for f in FEATURES if f.kind in ("id", "bucketed")}
    history = rng.integers(1, ROWS["item"], (16, 3))
    history[0, :] = 0  # an empty list
    history[1, 1:] = 0
    numbers = {n: rng.normal(size=16).astype(np.float32) for n in ("price", "age")}
    return {**ids, "history": history, **numbers}


def own_table(encoder, name):
    slot = encoder.slots[name]
    table = next(t for t in encoder.tables if t.shape[1] == slot.width)
    return table.numpy()[slot.offset : slot.offset + slot.rows]


def test_slots_do_not_overlap_and_shared_features_have_one():
    slots = embedding_slots(FEATURES, ROWS)
    assert set(slots) == set(ROWS)
    for width in {s.width for s in slots.values()}:
        same = sorted((s.offset, s.rows) for s in slots.values() if s.width == width)
        ends = np.cumsum([rows for _, rows in same])
        assert [offset for offset, _ in same] == [0, *ends[:-1]]


def test_embedded_input_is_what_one_table_per_feature_gives(encoder, batch):
    tensors = {k: tf.constant(v) for k, v in batch.items()}
    got = encoder(tensors).numpy()
    parts = []
    for width in (4, 2):
        for f in FEATURES:
            if f.kind == "number" or f.dimension != width:
                continue
            looked_up = own_table(encoder, f.table)[batch[f.name]]
            if f.kind == "id_list":
                mask = (batch["history"] != 0)[..., None]
                looked_up = (looked_up * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
            parts.append(looked_up)
    parts += [batch["price"][:, None], batch["age"][:, None]]
    np.testing.assert_allclose(got, np.concatenate(parts, axis=1), rtol=1e-6)
    assert got.shape[1] == encoder.dense_width


def test_an_empty_list_is_zero(encoder, batch):
    tensors = {k: tf.constant(v) for k, v in batch.items()}
    assert not encoder(tensors).numpy()[0, 4:8].any()  # history is the second feature of width 4


def test_gradients_with_respect_to_gathered_rows_are_the_dense_ones_summed_over_repeated_ids(encoder, batch):
    tensors = {k: tf.constant(v) for k, v in batch.items()}
    target = tf.random.stateless_normal([16, encoder.dense_width], seed=[0, 1])
    with tf.GradientTape() as dense_tape:
        loss = tf.reduce_sum(encoder(tensors) * target)
    dense = [tf.convert_to_tensor(g).numpy() for g in dense_tape.gradient(loss, encoder.tables)]
    lookups = encoder.lookup(tensors)
    rows = encoder.rows(lookups)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        loss = tf.reduce_sum(encoder.embed(tensors, lookups, rows) * target)
    for lookup, gradient, expected in zip(lookups, tape.gradient(loss, rows), dense):
        unique = lookup.unique.numpy()
        assert len(set(unique)) == len(unique)
        scattered = np.zeros_like(expected)
        scattered[unique] = tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(scattered, expected, rtol=1e-5, atol=1e-6)


def test_seed_decides_the_tables():
    same, other = (Encoder(FEATURES, ROWS, seed=s) for s in (0, 1))
    first = Encoder(FEATURES, ROWS, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(first.tables, same.tables))
    assert not any(np.array_equal(a, b) for a, b in zip(first.tables, other.tables))
