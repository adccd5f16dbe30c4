import numpy as np

from components.serving_check.matching import matches


def columns(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 30, rows),
        "history": rng.integers(0, 5, (rows, 2)),
        "price": rng.normal(size=rows).astype(np.float32),
        "views": (rng.gamma(1.0, 1e6, rows)).astype(np.float32),
    }


def taken(columns, places):
    return {name: values[places] for name, values in columns.items()}


def test_rows_are_found_wherever_they_stand_and_others_are_not():
    reference, others = columns(500), columns(300, seed=1)
    order = np.random.default_rng(2).permutation(500)[:200]
    mixed = {name: np.concatenate([taken(reference, order)[name], others[name]]) for name in reference}
    np.testing.assert_array_equal(matches(reference, mixed), [*order, *[-1] * 300])


def test_the_last_digits_of_a_number_do_not_matter_and_the_nearest_row_is_taken():
    reference = {"id": np.array([1, 1, 2]), "price": np.array([0.5, 0.50005, 0.5], np.float32)}
    found = {"id": np.array([1, 1, 2]), "price": np.nextafter(reference["price"], np.float32(1))}
    np.testing.assert_array_equal(matches(reference, found), [0, 1, 2])


def test_one_id_of_a_list_tells_rows_apart():
    reference = {"history": np.array([[1, 2], [1, 3]])}
    np.testing.assert_array_equal(matches(reference, {"history": np.array([[1, 3], [3, 1]])}), [1, -1])


def test_numbers_alone_are_enough():
    reference = {"x": np.array([0.1, 0.2], np.float32)}
    np.testing.assert_array_equal(matches(reference, {"x": np.array([0.2, 0.3, 0.1], np.float32)}), [1, -1, 0])
