"""What the configuration refuses of features whose values are weighed by a candidate."""

import pytest
from pydantic import ValidationError

from models.features import BucketedFeature, IdFeature, IdListFeature, NumberFeature, check_features
from models.preprocessing import features_from_json, features_to_json


def history(**fields):
    fields = {"side": "user", "dimension": 4, "max_length": 3, "pooling": "attention", "query": "item"} | fields
    return IdListFeature(kind="id_list", name="history", **fields)


ITEM = IdFeature(kind="id", name="item", side="item", dimension=4)
OTHERS = (
    IdFeature(kind="id", name="user", side="user", dimension=4),
    IdFeature(kind="id", name="words", side="context", dimension=4),
    IdFeature(kind="id", name="narrow", side="item", dimension=2),
    IdListFeature(kind="id_list", name="tags", side="item", dimension=4, max_length=2),
    NumberFeature(kind="number", name="price", side="item"),
    BucketedFeature(kind="bucketed", name="hour", side="item", dimension=4, boundaries=(6.0,)),
)


@pytest.mark.parametrize("pooling", ["attention", "lstm_attention"])
def test_a_candidate_of_the_item_or_the_context_is_fine(pooling):
    for query in ("item", "words"):
        features = (history(pooling=pooling, query=query, shares="item"), ITEM, *OTHERS)
        assert check_features(features) == features
        assert features_from_json(features_to_json(features)) == features


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("itme", "got no feature"),
        ("history", "got kind id_list of side user"),
        ("tags", "got kind id_list of side item"),
        ("price", "got kind number of side item"),
        ("hour", "got kind bucketed of side item"),
        ("user", "got kind id of side user"),
    ],
)
def test_a_candidate_is_an_id_of_the_item_or_the_context(query, found):
    with pytest.raises(
        ValueError, match=f"feature 'history' has query '{query}', expected the name of an id .*{found}"
    ):
        check_features((history(query=query), ITEM, *OTHERS))


def test_a_candidate_has_the_history_s_dimension():
    with pytest.raises(ValueError, match="'history' has query 'narrow', expected its dimension 2, got 4"):
        check_features((history(query="narrow"), ITEM, *OTHERS))


@pytest.mark.parametrize("pooling", ["attention", "lstm_attention"])
def test_the_attentions_need_a_candidate(pooling):
    with pytest.raises(ValidationError, match=f"query: required with pooling {pooling}"):
        history(pooling=pooling, query=None)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_only_the_attentions_have_a_candidate(pooling):
    with pytest.raises(ValidationError, match=f"got 'item' with pooling {pooling}"):
        history(pooling=pooling)
    assert not history(pooling=pooling, query=None).attends


@pytest.mark.parametrize("units", [(), (0,), (8, -1)])
def test_hidden_widths_are_positive(units):
    with pytest.raises(ValidationError, match="attention_units"):
        history(attention_units=units)
