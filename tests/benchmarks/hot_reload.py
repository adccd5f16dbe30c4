"""Mixed load on the embedded server while versions come, and one rollback: does every request get the right answer?

Requests by gRPC and REST, by label, to signatures `rank` and `predict`, go on from four threads. Meanwhile a new
version is published and promoted, again and again, and once rolled back. Versions differ in the bias of their last
layer, so that the scores tell which version gave them. Every answer is held against those of the versions that had the
label while the request was under way; by gRPC the version that the answer names must be the one that gave the scores.

    python tests/benchmarks/hot_reload.py --minutes 10 --reloads 20 SAVED_MODEL

SAVED_MODEL is the folder of a version, such as demo/run/models/demo/1. The last line printed is JSON; memory is the
resident memory of the server's process after the fifth and after the last reload.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import psutil
from serving_process import ServerProcess

from serving.client import Client, ClientError
from serving.load_test import random_rows
from serving.model_repository import ModelRepository
from tests.serving.versions import shifted

LABEL = "stable"
_PAUSE = 0.02  # seconds between a thread's requests: a server that is full would load its next version too slowly


class Load:
    """Threads that ask, and hold what they get against what they may get.

    Args:
      server: the server.
      model: name of the model.
      threads: how many ask.
    """

    def __init__(self, server: ServerProcess, model: str, threads: int = 4):
        self.server = server
        self.model = model
        self.allowed: dict[int, float] = {}
        """Versions that may answer, with the shift of their logits."""
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.latencies: list[float] = []
        self.ready = threading.Semaphore(0)
        """Released by each thread that knows the scores of the first version."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(threads)]

    def allow(self, version: int, shift: float) -> None:
        with self._lock:
            self.allowed[version] = shift

    def forbid(self, version: int) -> None:
        with self._lock:
            del self.allowed[version]

    def start(self) -> None:
        [t.start() for t in self._threads]
        for _ in self._threads:
            if not self.ready.acquire(timeout=300):
                raise TimeoutError("the load did not begin")

    def stop(self) -> None:
        self._over.set()
        [t.join() for t in self._threads]

    def _ask(self, number: int) -> None:
        rest = number % 4 == 3
        address = self.server.rest_address if rest else self.server.address
        rng = np.random.default_rng(number)
        with Client(
            address, self.model, label=LABEL, transport="rest" if rest else "grpc", timeout=120, retries=0
        ) as c:
            inputs = c.inputs()
            once = random_rows({n: k for n, k in inputs.items() if k.once}, 1, number)[0]
            items = random_rows({n: k for n, k in inputs.items() if not k.once}, 50, number)
            base = _logits(c.rank(once, items)["pctr"])  # of the first version, whose shift is 0
            self.ready.release()
            while not self._over.is_set():
                candidates = items[: rng.integers(1, 50)]
                with self._lock:
                    before = dict(self.allowed)
                time.sleep(_PAUSE)
                began = time.perf_counter()
                try:
                    if rng.random() < 0.7:
                        scores = c.rank(once, candidates)
                    else:
                        scores = c.predict([{**once, **item} for item in candidates])
                except ClientError as error:
                    with self._lock:
                        self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                took = time.perf_counter() - began
                logits = _logits(scores["pctr"])
                with self._lock:
                    may = {**before, **self.allowed}
                    self._judge(logits - base[: len(candidates)], scores.version, may)
                    self.latencies.append(took)
                    self.counts["rest" if rest else "grpc"] += 1

    def _judge(self, shifts: np.ndarray, version: int | None, may: dict[int, float]) -> None:
        named = {version: may[version]} if version in may else may
        if version is not None and version not in may:
            self.failures.append(f"version {version} answered, of {sorted(may)}")
        elif not any(np.abs(shifts - shift).max() < 1e-3 for shift in named.values()):
            self.failures.append(f"scores shifted by {shifts.min():.4f} to {shifts.max():.4f}, of {named}")


def _logits(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    return np.log(p) - np.log1p(-p)


def run(saved_model: Path, work: Path, *, reloads: int, seconds: float, rollback_after: int) -> dict:
    """Reloads under load; see above."""
    repository = ModelRepository(work / "models", "hot")
    first = shutil.copytree(saved_model, work / "first")
    repository.promote(repository.publish(first, reason="first"), "first")
    shifts = {1: 0.0}
    memory: list[int] = []
    with ServerProcess(work / "models") as server:
        load = Load(server, "hot")
        load.allow(1, 0.0)
        load.start()
        process = psutil.Process(server.process.pid)
        with Client(server.address, "hot", label=LABEL, timeout=120) as probe:

            def in_service() -> int | None:
                return probe.rank({}, []).version

            def swap(before: int, after: int, change) -> None:
                load.allow(after, shifts[after])
                change()
                deadline = time.monotonic() + 600
                while in_service() != after:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"version {after} did not come into service")
                    time.sleep(0.05)
                load.forbid(before)

            started = time.monotonic()
            for i in range(1, reloads + 1):
                due = started + seconds * i / (reloads + 1)
                time.sleep(max(0.0, due - time.monotonic()))
                stable = repository.labels()["stable"]
                shift = 0.1 * (1 + i % 7)
                folder = shifted(first, work / "next", shift)
                number = repository.publish(folder, reason=f"reload {i}", source=f"reload {i}")
                shutil.rmtree(folder)
                shifts[number] = shift
                swap(stable, number, lambda n=number: repository.promote(n, "better"))
                if i == rollback_after:
                    swap(number, stable, lambda: repository.rollback("a trial"))
                repository.collect_garbage(1)
                memory.append(process.memory_info().rss)
            time.sleep(max(0.0, started + seconds - time.monotonic()))
            memory[-1] = process.memory_info().rss
        load.stop()
        code = server.process.poll()
    latencies = np.array(load.latencies) * 1000
    return {
        "benchmark": "hot_reload",
        "seconds": round(time.monotonic() - started, 1),
        "reloads": reloads,
        "rollbacks": int(0 < rollback_after <= reloads),
        "requests": dict(load.counts),
        "failures": len(load.failures),
        "first_failures": load.failures[:5],
        "server_died": code is not None,
        "p50_ms": round(float(np.percentile(latencies, 50)), 1),
        "p99_ms": round(float(np.percentile(latencies, 99)), 1),
        "memory_mib": [m >> 20 for m in memory],
        "memory_last_to_fifth": round(memory[-1] / memory[min(4, len(memory) - 1)], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--reloads", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        options = {"reloads": arguments.reloads, "seconds": 60 * arguments.minutes, "rollback_after": 10}
        result = run(arguments.saved_model, Path(work), **options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
