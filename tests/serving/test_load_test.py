import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from models.section import UserError
from serving.client import ClientError, Overloaded, Prepared, Scores
from serving.columns import Input
from serving.load_test import LoadResult, load, plot, random_rows


@pytest.fixture
def answered_by():
    """Requests without an end, each answered by a function, many at a time."""
    with ThreadPoolExecutor(200) as pool:

        def requests(answer):
            def work(done):
                try:
                    done(Scores({}, answer()))
                except ClientError as error:
                    done(error)

            return itertools.repeat(Prepared(answer, lambda done: pool.submit(work, done)))

        yield requests


def test_latencies_count_from_the_scheduled_arrival(answered_by):
    """A server that stops once for half a second holds up all that arrive meanwhile."""
    lock, calls = threading.Lock(), []

    def answer():
        with lock:
            calls.append(time.perf_counter())
            if len(calls) == 20:
                time.sleep(0.5)

    result = load(answered_by(answer), 100, 1, 1.0)
    assert len(result.latencies) == 100 and result.errors == {}
    # Of Poisson arrivals at 100/s, some 50 come during the stall; their mean wait is a quarter of a second.
    held_up = result.latencies[result.latencies > 0.05]
    assert 25 < len(held_up) < 75
    assert 0.15 < held_up.mean() < 0.35
    assert result.percentile(75) > 50 and sum(np.diff(calls) > 0.05) < 10  # of which the calls by themselves show one


def test_arrivals_do_not_wait_for_answers(answered_by):
    started = time.perf_counter()
    result = load(answered_by(lambda: time.sleep(0.2)), 200, 1, 0.5)
    assert len(result.latencies) == 100
    assert time.perf_counter() - started < 2
    assert result.percentile(50) >= 200 and 0.2 <= result.late < 1


@pytest.mark.parametrize("rate, seconds", [(20, 1.0), (200, 0.5)])
def test_the_rate_is_the_one_that_was_asked_for(answered_by, rate, seconds):
    """A server that keeps up answers as many per second as arrive."""
    for seed in range(2):
        result = load(answered_by(lambda: None), rate, 1, seconds, seed=seed)
        assert result.answered == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate, seconds, told", [(0, 1, "rate: "), (-5, 1, "rate: "), (5, 0, "seconds: ")])
def test_rates_and_times_are_checked(rate, seconds, told):
    with pytest.raises(UserError, match=f"{told}expected a positive number"):
        load(iter(()), rate, 1, seconds)


def test_errors_are_counted_by_code(answered_by):
    answers = iter(range(50))

    def answer():
        if next(answers) % 5 == 0:
            raise Overloaded(grpc.StatusCode.UNAVAILABLE, "full")

    result = load(answered_by(answer), 500, 3, 0.1)
    assert result.errors == {"UNAVAILABLE": 10} and len(result.latencies) == 40
    assert result.candidates == 3 and result.answered == pytest.approx(40 / result.seconds)


def test_percentiles_are_of_what_was_answered():
    result = LoadResult(10, 1, np.arange(1, 101) / 1000, {"UNAVAILABLE": 5}, 10, 0)
    assert result.percentile(50) == pytest.approx(50.5)
    assert result.percentile(99) == pytest.approx(99.01)
    assert np.isnan(LoadResult(10, 1, np.array([]), {}, 1, 0).percentile(50))


def test_rows_fit_the_inputs():
    inputs = {"a": Input(True, 1, False), "b": Input(True, 2, True), "c": Input(False, 1, False)}
    rows = random_rows(inputs, 50, seed=1)
    assert len(rows) == 50 and rows == random_rows(inputs, 50, seed=1) != random_rows(inputs, 50, seed=2)
    assert {len(r["b"]) for r in rows} <= set(range(21)) and all(isinstance(r["a"], int) and r["c"] > 0 for r in rows)


def test_the_plot_is_drawn(tmp_path):
    result = LoadResult(10, 1, np.random.default_rng(0).gamma(2, 0.01, 1000), {}, 100, 0)
    plot([result, LoadResult(20, 1, np.array([]), {"UNAVAILABLE": 1}, 1, 0)], tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"
