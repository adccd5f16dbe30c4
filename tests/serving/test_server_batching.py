"""Requests that are joined: the same answers as alone, fewer calls, and errors that stay with who made them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grpc import StatusCode

from serving.server.batching import Batching
from serving.server.errors import ServingError, invalid


class Model:
    """Doubles x, and counts the texts of a list that are not empty; refuses negative numbers."""

    def __init__(self):
        self.calls = []
        self.lock = threading.Lock()

    def __call__(self, inputs, seconds):
        with self.lock:
            self.calls.append((len(inputs["x"]), seconds))
        if (inputs["x"] < 0).any():
            raise invalid("a negative number")
        count = np.array([sum(map(bool, row)) for row in inputs["words"]], np.int32)
        return {"twice": 2 * inputs["x"], "words": count}


def request(seed, rows=3, words=2):
    x = np.random.default_rng(seed).uniform(1, 2, rows).astype(np.float32)
    return {"x": x, "words": np.full((rows, words), b"w", dtype=object)}


def together(batching, model, requests, **options):
    """Sends requests at the same time, and gives what came back for each."""

    def send(inputs):
        try:
            return batching.run("kind", inputs, model, **options)
        except ServingError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


def test_the_answers_are_those_of_each_request_alone():
    model, requests = Model(), [request(i, rows=1 + i % 4, words=1 + i % 3) for i in range(12)]
    answers = together(Batching(1000, 200_000), model, requests)
    for inputs, answer in zip(requests, answers):
        np.testing.assert_array_equal(answer["twice"], 2 * inputs["x"])
        np.testing.assert_array_equal(answer["words"], [inputs["words"].shape[1]] * len(inputs["x"]))
    assert len(model.calls) < 12 and sum(rows for rows, _ in model.calls) == sum(len(r["x"]) for r in requests)


def test_a_full_batch_does_not_wait():
    model = Model()
    began = time.monotonic()
    answers = together(Batching(12, 60_000_000), model, [request(i) for i in range(8)])
    assert time.monotonic() - began < 30 and all("twice" in a for a in answers)
    assert [rows for rows, _ in model.calls] == [12, 12]


def test_a_batch_is_run_after_its_time_even_if_it_is_not_full():
    model = Model()
    batching = Batching(1000, 50_000)
    began = time.monotonic()
    batching.run("kind", request(0), model)
    assert 0.05 <= time.monotonic() - began < 5 and [rows for rows, _ in model.calls] == [3]


def test_no_batch_is_larger_than_allowed_and_large_requests_go_alone():
    model = Model()
    together(Batching(10, 100_000), model, [request(i, rows=r) for i, r in enumerate([4, 4, 4, 10, 25, 0])])
    sizes = sorted(rows for rows, _ in model.calls)
    assert {10, 25, 0} <= set(sizes) and sum(sizes) == 47
    assert max(s for s in sizes if s not in (10, 25)) <= 8


def test_an_error_stays_with_the_request_that_made_it():
    requests = [request(i) for i in range(6)]
    requests[2]["x"][1] = -1
    model = Model()
    answers = together(Batching(18, 60_000_000), model, requests)
    assert isinstance(answers[2], ServingError) and answers[2].code == StatusCode.INVALID_ARGUMENT
    for i in (0, 1, 3, 4, 5):
        np.testing.assert_array_equal(answers[i]["twice"], 2 * requests[i]["x"])


@pytest.mark.parametrize("other", [{"x": np.ones((3, 2), np.float32)}, {"x": np.ones(3, np.int64)}])
def test_inputs_of_other_shapes_or_types_are_not_joined(other):
    model = Model()
    answers = together(Batching(6, 100_000), model, [request(0), {**request(1), **other}])
    assert [rows for rows, _ in model.calls] == [3, 3]
    np.testing.assert_array_equal(answers[1]["twice"], 2 * other["x"])


def test_other_kinds_are_not_joined():
    model, batching = Model(), Batching(6, 100_000)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda kind: batching.run(kind, request(0), model), ["a", "b"]))
    assert [rows for rows, _ in model.calls] == [3, 3]


def test_who_joins_waits_no_longer_than_its_deadline():
    release = threading.Event()

    def slow(inputs, seconds):
        release.wait(30)
        return {"twice": 2 * inputs["x"]}

    batching = Batching(6, 60_000_000)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batching.run, "kind", request(0), slow, 20.0)
        while not batching._open:
            time.sleep(0.001)
        with pytest.raises(ServingError) as caught:
            batching.run("kind", request(1), slow, 0.05)
        release.set()
        assert caught.value.code == StatusCode.DEADLINE_EXCEEDED
        np.testing.assert_array_equal(first.result()["twice"], 2 * request(0)["x"])


def test_a_batch_waits_for_its_turn_as_long_as_the_most_patient_of_its_requests():
    model, batching = Model(), Batching(9, 60_000_000)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda s: batching.run("kind", request(0), model, s), [0.5, 5.0, 2.0]))
    assert model.calls == [(9, 5.0)]
