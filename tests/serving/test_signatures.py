"""The exported SavedModel: what it asks for, and that it scores as the ranker does."""

import json

import numpy as np
import pytest
import tensorflow as tf

from models.balancing import Static
from models.features import IdListFeature
from models.interactions import CrossConfig, DotConfig
from models.optimizers import OptimizerConfig
from models.preprocessing import table_rows
from models.presets import PRESETS, ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from serving.signatures import DESCRIPTION, export
from serving.warm_start import warm_start
from tests.transforms import FEATURES, LABELS, fit_transform, raw_rows, serialize

MODEL = ModelConfig(preset="shared_bottom")
MODEL_JSON = MODEL.model_dump(mode="json")


def make_ranker(transform, seed=0, features=FEATURES, model=MODEL):
    rows = table_rows(features, transform)
    return Ranker(features, rows, DEFAULT_TASKS, model, Static(name="static"), OptimizerConfig(), seed=seed)


@pytest.fixture(scope="module")
def ranker(transform):
    return make_ranker(transform)


@pytest.fixture(scope="module")
def exported(ranker, transform, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "1"
    export(ranker, transform, FEATURES, path, MODEL_JSON)
    return path


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def rows():
    return raw_rows(64, seed=5)


def as_columns(rows):
    columns = {}
    for f in FEATURES:
        if f.kind == "id_list":
            width = max(1, *(len(r[f.name]) for r in rows))
            columns[f.name] = tf.constant([r[f.name] + [b""] * (width - len(r[f.name])) for r in rows])
        elif f.kind == "id":
            columns[f.name] = tf.constant([r[f.name][0] if r[f.name] else b"" for r in rows])
        else:
            columns[f.name] = tf.constant([r[f.name][0] if r[f.name] else np.nan for r in rows], tf.float32)
    return columns


def test_scoring_signatures_give_the_funnel_and_ask_for_no_label(loaded):
    for name in ("serving_default", "predict"):
        signature = loaded.signatures[name]
        assert set(signature.structured_outputs) == {"pctr", "pcvr", "pctcvr"}
        assert all(s.dtype == tf.float32 and s.shape.rank == 1 for s in signature.structured_outputs.values())
        assert not set(LABELS) & set(signature.structured_input_signature[1])
    assert set(loaded.signatures["predict"].structured_input_signature[1]) == {f.name for f in FEATURES}


def test_every_way_to_score_gives_the_same(loaded, ranker, transform, rows):
    serialized = [serialize(r) for r in rows]
    transformed = transform.transform_features_layer()(tf.io.parse_example(serialized, transform.raw_feature_spec()))
    expected = ranker({f.name: transformed[f.name] for f in FEATURES})
    by_example = loaded.signatures["serving_default"](tf.constant(serialized))
    by_column = loaded.signatures["predict"](**as_columns(rows))
    for name, p in expected.items():
        assert np.ptp(p) > 0
        np.testing.assert_allclose(by_example[name], p, atol=1e-6)
        np.testing.assert_allclose(by_column[name], p, atol=1e-6)


def test_a_row_without_any_feature_is_scored(loaded):
    empty = tf.train.Example().SerializeToString()
    p = loaded.signatures["serving_default"](tf.constant([empty]))
    assert all(0 < float(v[0]) < 1 for v in p.values())


def test_no_rows_give_no_scores(loaded):
    p = loaded.signatures["serving_default"](tf.constant([], tf.string))
    assert all(v.shape == [0] for v in p.values())


def test_transform_features_takes_labels_only_optionally(loaded, rows):
    unlabelled = [{k: v for k, v in r.items() if k not in LABELS} for r in rows]
    with_labels = loaded.signatures["transform_features"](tf.constant([serialize(r) for r in rows]))
    without = loaded.signatures["transform_features"](tf.constant([serialize(r) for r in unlabelled]))
    assert with_labels["click"].numpy().tolist() == [r["click"][0] for r in rows]
    assert not without["click"].numpy().any()
    for f in FEATURES:
        assert np.array_equal(with_labels[f.name], without[f.name])


def test_the_model_describes_itself(exported):
    description = json.loads((exported / DESCRIPTION).read_text())
    assert [f["name"] for f in description["features"]] == [f.name for f in FEATURES]
    assert [t["name"] for t in description["tasks"]] == ["ctr", "cvr"]


def test_optimizer_state_stays_out_of_the_model(exported):
    names = [n for n, _ in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert not [n for n in names if "optimizer" in n]


def test_warm_start_of_the_same_configuration_gives_the_same_scores(exported, ranker, transform, rows):
    other = make_ranker(transform, seed=7)
    carried = warm_start(other, transform, FEATURES, MODEL_JSON, exported)
    transformed = transform.transform_features_layer()(
        tf.io.parse_example([serialize(r) for r in rows], transform.raw_feature_spec())
    )
    inputs = {f.name: transformed[f.name] for f in FEATURES}
    for name, p in ranker(inputs).items():
        np.testing.assert_allclose(other(inputs)[name], p, rtol=1e-6)
    assert all(a == b for a, b in carried.rows.values()) and carried.dense[0] == carried.dense[1] > 0
    assert "embedding rows and" in str(carried)


def attending(pooling):
    """The features, with a history that is weighed by the candidate."""
    update = {"pooling": pooling, "query": "item"}
    return tuple(f.model_copy(update=update) if isinstance(f, IdListFeature) else f for f in FEATURES)


BATCH_NORMALISED = {
    "trunk": {"name": "mmoe", "expert": {"units": [8], "normalization": "batch", "dropout": 0.1}},
    "heads": {"name": "plain", "normalization": "batch"},
}
EXPORTED = {
    **{preset: (ModelConfig(preset=preset), FEATURES) for preset in PRESETS},
    "attention, cross": (MODEL.model_copy(update={"interaction": CrossConfig(name="cross")}), attending("attention")),
    "lstm, dot": (MODEL.model_copy(update={"interaction": DotConfig(name="dot")}), attending("lstm_attention")),
    "batch normalisation": (ModelConfig.model_validate_json(json.dumps(BATCH_NORMALISED)), FEATURES),
}


@pytest.mark.parametrize("model, features", EXPORTED.values(), ids=EXPORTED.keys())
def test_every_model_scores_alike_when_exported_and_when_warm_started(transform, rows, tmp_path, model, features):
    ranker = make_ranker(transform, seed=3, features=features, model=model)
    for weight in ranker.weights:  # also those that begin at 0 or 1, moving averages included
        if weight.dtype == tf.float32 and weight.shape.rank:  # metrics count in float64
            weight.assign_add(tf.random.stateless_uniform(weight.shape, [weight.shape[0], 7], -0.05, 0.05))
    description = model.model_dump(mode="json")
    export(ranker, transform, features, tmp_path / "1", description)
    serialized = tf.constant([serialize(r) for r in rows])
    transformed = transform.transform_features_layer()(tf.io.parse_example(serialized, transform.raw_feature_spec()))
    inputs = {f.name: transformed[f.name] for f in features}
    expected = ranker(inputs)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](serialized)
    other = make_ranker(transform, seed=8, features=features, model=model)
    carried = warm_start(other, transform, features, description, tmp_path / "1")
    assert carried.dense[0] == carried.dense[1] > 0
    started = other(inputs)
    for name, p in expected.items():
        assert np.ptp(p) > 0 and p.dtype == tf.float32
        np.testing.assert_allclose(served[name], p, atol=1e-6)
        np.testing.assert_allclose(started[name], p, atol=1e-6)


@pytest.fixture(scope="module")
def later_transform(tmp_path_factory):
    """Another vocabulary: another order, items that are new and items that are gone."""
    rows = [r | {"item": [b"i%d" % (2 + i % 9)] if i % 3 else [b"i7"]} for i, r in enumerate(raw_rows(100, seed=3))]
    return fit_transform(rows, tmp_path_factory.mktemp("later"))


def test_warm_start_moves_rows_with_their_tokens(exported, ranker, transform, later_transform):
    later = make_ranker(later_transform, seed=7)
    fresh = [t.numpy() for t in later.encoder.tables]
    carried = warm_start(later, later_transform, FEATURES, MODEL_JSON, exported)
    old, new = (
        {t: i + 1 for i, t in enumerate(x.vocabulary_by_name("vocabulary_item"))} for x in (transform, later_transform)
    )
    old_slot, new_slot = ranker.encoder.slots["item"], later.encoder.slots["item"]
    old_table, new_table = ranker.encoder.tables[0].numpy(), later.encoder.tables[0].numpy()
    known = set(old) & set(new)
    assert known and set(new) - known and any(old[t] != new[t] for t in known)
    for token, row in new.items():
        got = new_table[new_slot.offset + row]
        if token in known:
            assert np.array_equal(got, old_table[old_slot.offset + old[token]])
        else:
            assert np.array_equal(got, fresh[0][new_slot.offset + row])
    # Known tokens, padding, and the two out-of-vocabulary rows.
    assert carried.rows["item"] == (len(known) + 3, len(new) + 3)


def test_warm_start_leaves_dense_weights_alone_when_features_change(exported, transform):
    fewer = tuple(f for f in FEATURES if f.name != "age")
    other = make_ranker(transform, seed=7, features=fewer)
    before = [v.numpy() for v in other.trunk.trainable_variables]
    carried = warm_start(other, transform, fewer, MODEL_JSON, exported)
    assert carried.dense[0] == 0 and carried.reason == "the configuration of the features has changed"
    assert all(np.array_equal(a, b) for a, b in zip(before, other.trunk.trainable_variables))
    assert carried.rows["user"][0] == carried.rows["user"][1]


def test_warm_start_carries_nothing_between_a_vocabulary_and_hashing(exported, transform):
    rows = table_rows(FEATURES, transform)["user"]
    hashed = tuple(
        f.model_copy(update={"vocabulary": None, "hash_buckets": rows - 1}) if f.name == "user" else f for f in FEATURES
    )
    assert table_rows(hashed, transform)["user"] == rows  # as many rows, of another meaning
    carried = warm_start(make_ranker(transform, features=hashed), transform, hashed, MODEL_JSON, exported)
    assert carried.rows["user"] == (0, rows) and carried.rows["seller"] == (6, 6)
