"""The highest rate that a server sustains, and its latencies below it; the same of a queue that nothing holds up."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from rich.console import Console

from serving.client import Client
from serving.load_test import load, prepared

SHARES = (0.5, 0.6, 0.7)
"""Of the highest rate, at which latencies are measured."""
_FINE = 1.05  # neighbouring rates that are tried differ by no more


def highest_rate(sustains: Callable[[float], bool], first: float) -> float:
    """The highest rate that is sustained: the first one doubled until one is not, then by bisection.

    A rate that was not sustained is not tried again: of many trials one would be lucky.
    """
    best, failed = 0.0, float("inf")
    while failed > _FINE * best:
        rate = first if not best else 2 * best if failed == float("inf") else (best * failed) ** 0.5
        if sustains(rate):
            best = rate
        elif not best:
            raise RuntimeError(f"not even {rate:g} requests per second")
        else:
            failed = rate
    return best


def tail(latencies: np.ndarray) -> float:
    """p99 / p50."""
    return float(np.percentile(latencies, 99) / np.median(latencies))


def under_load(address: str, candidates: int, seconds: float, console: Console) -> dict:
    """The highest rate that the server sustains, and the latencies at shares of it, each the median of three loads.

    A rate is sustained if nothing fails, the last answer comes soon after the last arrival, and the median latency is
    at most three times that of the first, low rate: beyond that requests wait for one another, more and more.

    Args:
      address: of the server's gRPC, with a model 'bench'.
      candidates: of a request.
      seconds: of load at each rate that is tried; three times as long where latencies are measured.
    """
    with Client(address, "bench", timeout=30, retries=0) as client:
        requests = prepared(client, [candidates])[candidates]
        load(requests, 20, candidates, 2)
        unloaded = float("inf")

        def sustains(rate: float) -> bool:
            nonlocal unloaded
            result = load(requests, rate, candidates, seconds)
            unloaded = min(unloaded, result.percentile(50))
            quick = result.late < 0.05 * seconds and result.percentile(50) < 3 * unloaded
            sustained = not result.errors and quick
            told = "sustained" if sustained else f"not sustained {result.errors or ''}"
            console.print(
                f"  {rate:.0f}/s: p50 {result.percentile(50):.1f} ms, p99 {result.percentile(99):.1f} ms, {told}"
            )
            return sustained

        best = highest_rate(sustains, 20.0)
        at = {}
        for share in SHARES:
            results = [load(requests, share * best, candidates, 3 * seconds, seed=1 + i) for i in range(3)]
            ratios = [tail(result.latencies) for result in results]
            at[str(share)] = {
                "rate": round(share * best, 1),
                "p50_ms": round(float(np.median([r.percentile(50) for r in results])), 2),
                "p99_ms": round(float(np.median([r.percentile(99) for r in results])), 2),
                "p99_to_p50": round(float(np.median(ratios)), 2),
                "p99_to_p50_each": [round(ratio, 2) for ratio in ratios],
                "errors": sum(sum(r.errors.values()) for r in results),
            }
            console.print(f"  at {share:.0%}: {at[str(share)]}")
    return {"highest_rate": round(best, 1), "unloaded_p50_ms": round(unloaded, 2), "at": at}


def ideal_tails(processors: int) -> dict[str, float]:
    """p99 / p50 by share of the highest rate, found in the same way, where equal requests wait for the first free
    processor and for nothing else (M/D/c): which of them waits how long is up to chance in the arrivals alone."""

    def sustains(rate: float) -> bool:
        return rate < processors and bool(np.median(waiting_and_service(rate, processors)) < 3)

    best = highest_rate(sustains, 0.05 * processors)
    return {str(share): round(tail(waiting_and_service(share * best, processors)), 2) for share in SHARES}


def waiting_and_service(rate: float, processors: int, requests: int = 200_000) -> np.ndarray:
    """Latencies in units of a request's service, at so many arrivals per unit (Poisson)."""
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, requests))
    free = [0.0] * processors
    latencies = np.empty(requests)
    for i, arrival in enumerate(arrivals.tolist()):
        begins = max(arrival, free[0])
        heapq.heapreplace(free, begins + 1)
        latencies[i] = begins + 1 - arrival
    return latencies
