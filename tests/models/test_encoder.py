"""The encoder: its merged, row-sparse look-ups against plain look-ups in one table per feature."""

import numpy as np
import pytest
import tensorflow as tf

from models.encoder import Encoder, embedding_slots
from models.features import check_features
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


def gather(rows, lookups):
    return [tf.gather(r, lookup.positions) for r, lookup in zip(rows, lookups)]


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
        loss = tf.reduce_sum(encoder.embed(tensors, gather(rows, lookups)) * target)
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


def attending(pooling):
    """The features, with a history that the item attends to, in front of the item and of another width group."""
    changed = {"pooling": pooling, "query": "item", "attention_units": (5,)}
    return check_features(tuple(f.model_copy(update=changed) if f.name == "history" else f for f in FEATURES))


@pytest.mark.parametrize("pooling", ["attention", "lstm_attention"])
def test_a_history_is_weighed_by_the_item_s_embedding(pooling, batch):
    encoder = Encoder(attending(pooling), ROWS, seed=0)
    got = encoder({k: tf.constant(v) for k, v in batch.items()}).numpy()
    table = own_table(encoder, "item")
    values, candidate = tf.constant(table[batch["history"]]), tf.constant(table[batch["item"]])
    expected = encoder.histories["history"]((values, candidate), tf.constant(batch["history"] != 0)).numpy()
    offset, width = encoder.layout[1]
    np.testing.assert_allclose(got[:, offset : offset + width], expected, rtol=1e-5, atol=1e-7)
    assert expected[2].any() and not got[0, offset : offset + width].any()
    assert got.shape[1] == encoder.dense_width
    plain = Encoder(FEATURES, ROWS, seed=0)({k: tf.constant(v) for k, v in batch.items()}).numpy()
    rest = np.delete(np.arange(got.shape[1]), np.arange(offset, offset + width))
    assert np.array_equal(got[:, rest], plain[:, rest])


@pytest.mark.parametrize("pooling", ["attention", "lstm_attention"])
def test_gradients_reach_the_attention_and_the_candidate_s_row(pooling, batch):
    encoder = Encoder(attending(pooling), ROWS, seed=0)
    tensors = {k: tf.constant(v) for k, v in batch.items()}
    lookups = encoder.lookup(tensors)
    rows = encoder.rows(lookups)
    offset, width = encoder.layout[1]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(rows)
            embedded = encoder.embed(tensors, gather(rows, lookups), training=True)
            loss = tf.reduce_sum(embedded[2:3, offset : offset + width])
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, [rows[0], *encoder.dense_variables])]

    of_rows, *of_dense = gradients()
    assert all(np.isfinite(g).all() for g in of_dense) and any(np.any(g) for g in of_dense)
    touched = set(lookups[0].unique.numpy()[np.any(of_rows, axis=1)])
    offset = encoder.slots["item"].offset
    assert touched == {offset + i for i in (*batch["history"][2], batch["item"][2])}


def test_every_weight_exists_at_construction_and_dense_ones_are_no_tables():
    encoder = Encoder(attending("attention"), ROWS, seed=0)
    tables, dense = ({id(v) for v in vs} for vs in (encoder.tables, encoder.dense_variables))
    assert not tables & dense and tables | dense == {id(v) for v in encoder.trainable_variables}
    assert len(dense) == 3 + 2  # a hidden layer with its slopes, and the score
    assert Encoder(FEATURES, ROWS, seed=0).dense_variables == []


def test_layout_says_where_embeddings_lie(encoder, batch):
    assert encoder.layout == ((0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2))
    got = encoder({k: tf.constant(v) for k, v in batch.items()}).numpy()
    for name, (offset, width) in zip(("user", "item", "seller"), (encoder.layout[i] for i in (0, 2, 3))):
        np.testing.assert_array_equal(got[:, offset : offset + width], own_table(encoder, name)[batch[name]])


@pytest.mark.parametrize("pooling", ["attention", "lstm_attention"])
def test_an_attention_is_saved_and_restored(pooling, batch, tmp_path):
    encoder, other = (Encoder(attending(pooling), ROWS, seed=s) for s in (0, 1))
    tensors = {k: tf.constant(v) for k, v in batch.items()}
    expected = encoder(tensors).numpy()
    tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / "c"))
    tf.train.Checkpoint(encoder=other).read(str(tmp_path / "c")).assert_consumed()
    assert np.array_equal(other(tensors), expected)
    module = tf.Module()
    module.encoder = encoder
    spec = {k: tf.TensorSpec([None, *v.shape[1:]], v.dtype) for k, v in tensors.items()}
    module.embed = tf.function(lambda features: {"x": encoder(features)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.embed(tensors)["x"], expected, rtol=1e-5, atol=1e-7)
