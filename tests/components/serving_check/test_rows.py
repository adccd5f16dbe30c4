import numpy as np
import tensorflow as tf

from components.serving_check.rows import Input, as_columns, as_request, requests

INPUTS = {
    "user": Input(tf.string, 1, once=True),
    "history": Input(tf.string, 2, once=True),
    "age": Input(tf.float32, 1, once=True),
    "item": Input(tf.string, 1, once=False),
    "price": Input(tf.float32, 1, once=False),
}


def example(**columns):
    def feature(value):
        if isinstance(value[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    made = {name: feature(value) for name, value in columns.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def test_missing_values_are_empty_text_and_nan():
    rows = [example(user=[b"u"], history=[b"a", b"b"], price=[1.5]), example(item=[b"i\0"], age=[3.0])]
    found = as_columns(np.array(rows, dtype=object), INPUTS)
    assert found["user"].tolist() == [b"u", b""]
    assert found["history"].tolist() == [[b"a", b"b"], [b"", b""]]
    assert found["item"].tolist() == [b"", b"i\0"]
    np.testing.assert_array_equal(found["price"], [1.5, np.nan])
    np.testing.assert_array_equal(found["age"], [np.nan, 3.0])


def test_columns_that_no_row_has():
    found = as_columns(np.array([example(user=[b"u"])] * 2, dtype=object), INPUTS)
    assert found["history"].tolist() == [[b""], [b""]] and found["item"].tolist() == [b"", b""]
    assert np.isnan(found["price"]).all() and found["price"].shape == (2,)


def test_rows_of_one_user_and_context_are_a_request():
    columns = {
        "user": np.array([b"u", b"v", b"u", b"u", b"v"], dtype=object),
        "history": np.array([[b"a", b""], [b"", b""], [b"a", b""], [b"", b"a"], [b"", b""]], dtype=object),
        "age": np.array([np.nan, 1, np.nan, np.nan, 1], np.float32),
        "item": np.array([b"1", b"2", b"3", b"4", b"5"], dtype=object),
        "price": np.arange(5, dtype=np.float32),
    }
    found = [rows.tolist() for rows in requests(columns, INPUTS)]
    assert found == [[0, 2], [1, 4], [3]]
    request = as_request(columns, INPUTS, np.array([1, 4]))
    assert request["user"].tolist() == [b"v"] and request["history"].shape == (1, 2)
    assert request["item"].tolist() == [b"2", b"5"] and request["price"].tolist() == [1, 4]
