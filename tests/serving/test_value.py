import numpy as np
import pytest
import tensorflow as tf

from models.features import NumberFeature
from models.section import UserError
from models.tasks import DEFAULT_TASKS
from serving.value import ValueFormula, value_formula

VALUES = {
    "pctr": np.array([0.5, 0.1, 0.25], np.float32),
    "pctcvr": np.array([0.05, 0.01, 0.2], np.float32),
    "price": np.array([10.0, np.nan, 3.0], np.float32),
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pctcvr", lambda r, v, p: v),
        ("pctcvr * price", lambda r, v, p: v * p),
        ("pctr + 20 * pctcvr * min(price, 5)", lambda r, v, p: r + 20 * v * np.minimum(p, 5)),
        ("-(pctr - pctcvr) / 2 ** 2", lambda r, v, p: -(r - v) / 4),
        (
            "log(pctr) + exp(pctcvr) - sqrt(max(price, 1))",
            lambda r, v, p: np.log(r) + np.exp(v) - np.sqrt(np.maximum(p, 1)),
        ),
        ("1", lambda r, v, p: np.ones(3)),
    ],
)
def test_a_formula_is_what_it_says_and_a_missing_number_is_0(text, expected):
    found = ValueFormula(text, VALUES)({name: tf.constant(v) for name, v in VALUES.items()})
    np.testing.assert_allclose(
        found, expected(VALUES["pctr"], VALUES["pctcvr"], np.nan_to_num(VALUES["price"])), rtol=1e-6
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("pctcvr *", "is no formula"),
        ("pctcvr * cost", "'cost', expected one of pctcvr, pctr, price"),
        ("__import__('os')", "__import__ of 1, expected exp, log, max, min, sqrt"),
        ("pctr.real", "'pctr.real'"),
        ("[pctr][0]", "'\\[pctr\\]\\[0\\]'"),
        ("pctr > 0.5", "'pctr > 0.5'"),
        ("min(pctr)", "min of 1"),
        ("'a' * 2", "'a'"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        ValueFormula(text, VALUES)


@pytest.mark.parametrize(
    "features, expected",
    [
        ((NumberFeature(kind="number", name="price", side="item"),), "pctcvr * price"),
        ((NumberFeature(kind="number", name="price", side="user"),), "pctcvr"),
        ((NumberFeature(kind="number", name="cost", side="item"),), "pctcvr"),
    ],
)
def test_the_default_is_worth_the_price_of_an_item_that_has_one(features, expected):
    assert value_formula(None, features, DEFAULT_TASKS).text == expected
