"""An open-loop load test: requests arrive on schedule, whether or not the server keeps up."""

from __future__ import annotations

import gc
import itertools
import queue
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.section import UserError
from serving.client import Client, ClientError, Prepared, Scores
from serving.columns import Input

PERCENTILES = (50, 90, 99, 99.9)


@dataclass(frozen=True)
class LoadResult:
    """What one rate and number of candidates gave.

    Attributes:
      rate: requests that arrived per second, as asked for.
      candidates: candidates of a request.
      latencies: seconds from the scheduled arrival of each request that was answered to its answer, sorted.
      errors: failed requests by code.
      seconds: the time of the arrivals, or to the last answer where that came later.
      late: seconds from the last arrival to the last answer: what had piled up by then.
    """

    rate: float
    candidates: int
    latencies: np.ndarray
    errors: dict[str, int]
    seconds: float
    late: float

    @property
    def answered(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, q: float) -> float:
        """Milliseconds within which q percent of the answered requests were answered; NaN without any."""
        return float(np.percentile(self.latencies, q) * 1000) if len(self.latencies) else float("nan")


def load(requests: Iterator[Prepared], rate: float, candidates: int, seconds: float, *, seed: int = 0) -> LoadResult:
    """Starts requests at random moments (a Poisson process that has its mean number of arrivals) at a rate.

    A request's latency counts from the moment for which it was scheduled, so that a stall of the server, or of this
    client, shows in every request that it held up, and not in one (the 'coordinated omission' of closed loops). No
    thread waits for an answer: on a machine that is shared with the server, threads of the client would be in its way.

    Args:
      requests: without an end, as `prepared` makes them.
      rate: requests per second.
      candidates: candidates of a request.
      seconds: how long requests arrive.
      seed: decides the moments.

    Raises:
      UserError: for a rate or a time that is not positive.
    """
    for name, value in (("rate", rate), ("seconds", seconds)):
        if not value > 0:
            raise UserError(f"{name}: expected a positive number, got {value:g}")
    # Given their number, the arrivals of a Poisson process are uniform in time; so the rate is the one asked for.
    arrivals = np.sort(np.random.default_rng(seed).uniform(0, seconds, max(1, round(rate * seconds))))
    answers: queue.SimpleQueue[tuple[float, Scores | ClientError]] = queue.SimpleQueue()

    def begin(due: float) -> None:
        next(requests).start(lambda answer: answers.put((time.perf_counter() - due, answer)))

    # A full collection would take a fifth of a second in a process with TensorFlow, and hold up all that is due.
    gc.collect()
    gc.freeze()
    try:
        started = time.perf_counter()
        for due in started + arrivals:
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            begin(due)
        ended = [answers.get() for _ in arrivals]
        taken = time.perf_counter() - started
    finally:
        gc.unfreeze()
    errors = Counter(answer.code.name for _, answer in ended if isinstance(answer, ClientError))
    latencies = np.sort([took for took, answer in ended if not isinstance(answer, ClientError)])
    late = taken - float(arrivals[-1])
    return LoadResult(rate, candidates, latencies, dict(errors), max(taken, seconds), late)


def random_rows(inputs: Mapping[str, Input], rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows of made-up values: ids and lists of up to 20 ids, of whole numbers below 10,000, and positive numbers."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {}
    for name, kind in inputs.items():
        if kind.rank == 2:
            columns[name] = [rng.integers(0, 10_000, n).tolist() for n in rng.integers(0, 21, rows)]
        elif kind.text:
            columns[name] = rng.integers(0, 10_000, rows).tolist()
        else:
            columns[name] = rng.gamma(2.0, 10.0, rows).tolist()
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def prepared(client: Client, candidates: Sequence[int], different: int = 16) -> dict[int, Iterator[Prepared]]:
    """Made-up requests by their number of candidates, encoded beforehand: this client's work is not the server's.

    Raises:
      UserError: for a negative number of candidates.
    """
    if min(candidates) < 0:
        raise UserError(f"candidates: expected at least 0, got {min(candidates)}")
    inputs = client.inputs()
    once = {n: i for n, i in inputs.items() if i.once}
    each = {n: i for n, i in inputs.items() if not i.once}
    return {
        n: itertools.cycle(
            [client.prepare(random_rows(once, 1, i)[0], random_rows(each, n, i)) for i in range(different)]
        )
        for n in candidates
    }


def plot(results: Sequence[LoadResult], path: str | Path) -> None:
    """Draws the distribution of the latencies of each result: milliseconds over the share of slower requests."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for result in results:
        n = len(result.latencies)
        if n:
            slower = 1 - np.arange(n) / n
            label = f"{result.rate:g}/s, {result.candidates} candidates"
            axes.step(slower, result.latencies * 1000, where="post", label=label)
    axes.set(xscale="log", yscale="log", xlabel="share of requests that are slower", ylabel="latency from arrival, ms")
    axes.invert_xaxis()
    ticks = [1, 0.5, 0.1, 0.01, 0.001]
    axes.set_xticks(ticks, ["all", "p50", "p90", "p99", "p99.9"])
    # Latencies within one power of ten would have one number on their axis else.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
