"""The signature `rank`: one request's user and context once, and its candidates."""

import json

import numpy as np
import pytest
import tensorflow as tf

from models.features import IdListFeature
from models.interactions import CrossConfig, DotConfig
from models.presets import PRESETS, ModelConfig
from models.ranker import Ranker
from serving.signatures import ServingModel, export
from tests.serving.exported import as_columns, as_request, make_ranker
from tests.transforms import FEATURES, raw_rows, serialize

ONCE = {f.name for f in FEATURES if f.side != "item"}
MODEL = ModelConfig(preset="shared_bottom")


def attending(pooling, **update):
    update = {"pooling": pooling, "query": "item", **update}
    return tuple(f.model_copy(update=update) if isinstance(f, IdListFeature) else f for f in FEATURES)


NORMALISED = {
    "trunk": {"name": "mmoe", "expert": {"units": [8], "normalization": "%s", "dropout": 0.1}},
    "heads": {"name": "plain", "normalization": "batch"},
}
MODELS = {
    **{preset: (ModelConfig(preset=preset), FEATURES) for preset in PRESETS},
    "attention, cross": (MODEL.model_copy(update={"interaction": CrossConfig(name="cross")}), attending("attention")),
    "lstm, dot": (MODEL.model_copy(update={"interaction": DotConfig(name="dot")}), attending("lstm_attention")),
    "attention of an item's list": (MODEL, attending("attention", side="item")),
    "items alone": (MODEL, tuple(f.model_copy(update={"side": "item"}) for f in FEATURES)),
    **{
        f"{kind} normalisation": (ModelConfig.model_validate_json(json.dumps(NORMALISED).replace("%s", kind)), FEATURES)
        for kind in ("batch", "layer")
    },
}


def requests(features):
    """Rows, of which those of one request have the user and context of its first."""
    once = [f.name for f in features if f.side != "item"]
    for number, candidates in enumerate((1, 7, 40)):
        rows = raw_rows(candidates, seed=number)[:candidates]
        yield [{**row, **{name: rows[0][name] for name in once}} for row in rows]
    empty = {name: [] for name in rows[0]}
    yield [empty, {**empty, "item": [b"never seen"], "seller": [b"never seen"]}]


@pytest.fixture
def eagerly():
    """Functions run without being traced, which would take most of a test's time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("model, features", MODELS.values(), ids=MODELS.keys())
def test_scores_are_those_of_serving_default(transform, eagerly, model, features):
    ranker = make_ranker(transform, seed=3, features=features, model=model)
    for weight in ranker.weights:  # also those that begin at 0 or 1, moving averages included
        if weight.dtype == tf.float32 and weight.shape.rank:  # metrics count in float64
            weight.assign_add(tf.random.stateless_uniform(weight.shape, [weight.shape[0], 7], -0.05, 0.05))
    check_requests(ServingModel(ranker, transform, features), features)


def test_without_features_of_items_there_is_nothing_to_rank(transform, eagerly):
    features = tuple(f.model_copy(update={"side": "user"}) for f in FEATURES)
    served = ServingModel(make_ranker(transform, features=features, model=MODEL), transform, features)
    assert "rank" not in served.signatures()
    rows = raw_rows(7)
    assert len(served.serving_default(tf.constant([serialize(row) for row in rows]))["pctr"]) == len(rows)


def check_requests(served, features):
    """`rank` scores the candidates of each request as `serving_default` does one by one."""
    spread = 0.0
    for rows in requests(features):
        expected = served.serving_default(tf.constant([serialize(row) for row in rows]))
        found = served.rank(**as_request(rows, features))
        assert set(found) == {*expected, "order"}
        for name, p in expected.items():
            assert found[name].dtype == tf.float32
            np.testing.assert_allclose(found[name], p, atol=1e-6)
            spread = max(spread, np.ptp(p))
    assert spread > 1e-4
    items = {f.name for f in features if f.side == "item"}
    none = {name: v[:0] if name in items else v for name, v in as_request(rows, features).items()}
    assert all(v.shape == [0] for v in served.rank(**none).values())


def test_bfloat16_scores_are_those_of_serving_default(transform, eagerly):
    ranker = make_ranker(transform, model=ModelConfig(preset="mmoe"), precision="mixed_bfloat16")
    check_requests(ServingModel(ranker, transform, FEATURES), FEATURES)


def test_the_exported_graph_scores_as_serving_default_does(transform, tmp_path):
    model, features = MODELS["lstm, dot"]
    export(make_ranker(transform, features=features, model=model), transform, features, tmp_path / "1", {})
    check_requests(Served(tf.saved_model.load(str(tmp_path / "1")).signatures), features)


class Served:
    def __init__(self, signatures):
        self.rank, self.serving_default = signatures["rank"], signatures["serving_default"]


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def rows():
    *_, rows, _ = requests(FEATURES)
    return rows


def test_no_candidates_give_empty_vectors(signatures, rows):
    request = {name: v if name in ONCE else v[:0] for name, v in as_request(rows).items()}
    found = signatures["rank"](**request)
    assert {name: (v.shape.as_list(), v.dtype) for name, v in found.items()} == {
        **{name: ([0], tf.float32) for name in ("pctr", "pcvr", "pctcvr")},
        "order": ([0], tf.int32),
    }


def test_the_default_order_is_by_pctcvr_times_price(signatures, rows):
    found = signatures["rank"](**as_request(rows))
    price = np.array([row["price"][0] if row["price"] else 0.0 for row in rows], np.float32)
    assert 0 in price and found["pctcvr"].numpy().min() > 0
    expected = sorted(range(len(rows)), key=lambda i: -(found["pctcvr"][i].numpy() * price[i]))
    assert found["order"].numpy().tolist() == expected


@pytest.mark.parametrize(
    "name, rows_given", [("item", 3), ("price", 39), ("user", 0), ("user", 2), ("history", 2), ("seller", 0)]
)
def test_columns_of_other_lengths_are_refused_by_name(signatures, rows, name, rows_given):
    request = as_request(rows)
    request[name] = tf.repeat(request[name][:1], rows_given, axis=0)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        signatures["rank"](**request)
    names = [f.name for f in FEATURES if (f.side == "item") == (name not in ONCE)]
    given = " ".join(str(rows_given if n == name else len(rows) if name not in ONCE else 1) for n in names)
    assert f"[{', '.join(names)}] [; got] [{given}]" in caught.value.message


@pytest.mark.parametrize("name, rows_given", [("item", 1), ("price", 39), ("user", 41), ("history", 1), ("age", 0)])
def test_predict_refuses_columns_of_other_lengths_by_name(signatures, rows, name, rows_given):
    request = as_columns(rows)
    request[name] = tf.repeat(request[name][:1], rows_given, axis=0)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        signatures["predict"](**request)
    given = " ".join(str(rows_given if f.name == name else len(rows)) for f in FEATURES)
    assert f"[{', '.join(f.name for f in FEATURES)}] [; got] [{given}]" in caught.value.message


def test_first_layers_are_split_and_nothing_else_is_copied(transform):
    ranker: Ranker = make_ranker(transform, model=ModelConfig(preset="mmoe"))
    parts = ServingModel(ranker, transform, FEATURES).split_kernels.parts
    first = [ranker.trunk.experts.kernels[0], *(gate.logits.kernel for gate in ranker.trunk.gates)]
    assert len(parts) == 2 * len(first)
    columns = [ranker.encoder.columns[i] for i in (0, 1)]
    assert sorted(columns[0] + columns[1]) == list(range(ranker.encoder.dense_width))
    for i, kernel in enumerate(first):
        for j in (0, 1):
            np.testing.assert_array_equal(parts[2 * i + j], np.take(kernel.numpy(), columns[j], axis=-2))
