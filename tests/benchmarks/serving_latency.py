"""What does a request cost? Signature `rank` beside the others, and the embedded server beside the model itself.

The ranker is an MMoE of 4 experts [256, 128] and towers [64] on 20 id features of dimension 16 (hashed, tables of
10 k to 1 M rows, log-spaced), 10 numbers and a history of up to 20 items; half of the ids and numbers, and the history,
are of the user and the context. Weights are random: they do not change what an operation costs.

- in process: p50 of each signature of the SavedModel, loaded by TensorFlow, at 100, 300 and 1000 candidates; inputs are
  tensors already. The signatures take turns.
- request: bytes of a PredictRequest, and milliseconds from Python dicts to these bytes, for `rank` by serving/client.py
  and for serialized tf.Examples by tf.train.Example.
- server: `python -m pipeline serve` in a process of its own; p50 of `rank` at 300 candidates by gRPC, in turns of ten
  with the same in process and with a bare echo of gRPC for Python. Then an open-loop load test: the highest rate that
  the server sustains, and latencies at 50, 60 and 70 % of it.
- ideal queue: p99 / p50 at these shares where requests of equal length wait for the first free processor and for
  nothing else. Two processors already give 3.5 at 70 %, four 2.3: how far requests wait for one another depends on how
  many can run beside each other, and is no server's doing.

    python tests/benchmarks/serving.py

Minutes: about 6 on 2 cores. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
from rich.console import Console
from serving_echo import echo
from serving_load import ideal_tails, under_load
from serving_process import ServerProcess
from tensorflow_serving.apis import model_pb2, predict_pb2

from models.balancing import Static
from models.features import Feature, IdFeature, IdListFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.preprocessing import table_rows
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from serving.client import Client, predict_request
from serving.columns import Input, columns_of, request_columns
from serving.load_test import random_rows
from serving.model_repository import ModelRepository
from serving.signatures import export
from tests.transforms import fit_transform

CANDIDATES = (100, 300, 1000)
_ANSWER = 4_200  # bytes, about, of the four outputs for 300 candidates
MODEL = {
    "trunk": {"name": "mmoe", "experts": 4, "expert": {"units": [256, 128]}},
    "heads": {"name": "plain", "tower": [64]},
}
TARGETS = {
    "rank to serving_default, 1000": 0.7,
    "rank to predict, 1000": 0.85,
    "request bytes": 0.25,
    "encoding time": 0.1,
    "server adds ms, 300": 1.5,
    "p99 to p50 at 70 %": 3.0,
}


def features() -> tuple[Feature, ...]:
    rows = np.geomspace(10_000, 1_000_000, 20).astype(int)
    # Item ids are in a large table, as they are; the others alternate.
    sides = ["context" if i % 7 == 0 else "user" if i % 2 else "item" for i in range(19)] + ["item"]
    ids = [
        IdFeature(kind="id", name=f"id_{i}", side=side, dimension=16, hash_buckets=int(n))
        for i, (side, n) in enumerate(zip(sides, rows))
    ]
    history = IdListFeature(
        kind="id_list", name="history", side="user", dimension=16, max_length=20, shares="id_19", pooling="mean"
    )
    numbers = [
        NumberFeature(kind="number", name=f"number_{i}", side="item" if i % 2 else "user", scaling="none")
        for i in range(10)
    ]
    return (*ids, history, *numbers)


def saved_model(folder: Path) -> Path:
    """The exported ranker, with random weights."""
    made = features()
    transform = fit_transform(rows_of(made, 100, seed=0), folder, made)
    model = ModelConfig.model_validate_json(json.dumps(MODEL))
    ranker = Ranker(
        made, table_rows(made, transform), DEFAULT_TASKS, model, Static(name="static"), OptimizerConfig(), seed=1
    )
    export(ranker, transform, made, folder / "saved", model.model_dump(mode="json"))
    return folder / "saved"


def inputs_of(made: tuple[Feature, ...]) -> dict[str, Input]:
    return {
        f.name: Input(
            text=not isinstance(f, NumberFeature), rank=1 + isinstance(f, IdListFeature), once=f.side != "item"
        )
        for f in made
    }


def rows_of(made: tuple[Feature, ...], rows: int, seed: int) -> list[dict]:
    """Rows as tf.Examples carry them."""

    def values(value) -> list:
        return [str(v).encode() if isinstance(v, int) else v for v in (value if isinstance(value, list) else [value])]

    found = random_rows(inputs_of(made), rows, seed)
    return [{**{n: values(v) for n, v in row.items()}, "click": [0], "purchase": [0]} for row in found]


def request_of(made: tuple[Feature, ...], candidates: int, seed: int) -> tuple[dict, list[dict]]:
    """One request as an application has it."""
    kinds = inputs_of(made)
    once = random_rows({n: k for n, k in kinds.items() if k.once}, 1, seed)[0]
    return once, random_rows({n: k for n, k in kinds.items() if not k.once}, candidates, seed)


def as_examples(once: dict, items: list[dict]) -> list[bytes]:
    """Serialized tf.Examples, made as TensorFlow's documentation does."""
    made = []
    for item in items:
        example = tf.train.Example()
        for name, value in {**once, **item}.items():
            feature = example.features.feature[name]
            if isinstance(value, float):
                feature.float_list.value.append(value)
            elif isinstance(value, list):
                feature.bytes_list.value.extend([str(v).encode() for v in value])
            else:
                feature.bytes_list.value.append(str(value).encode())
        made.append(example.SerializeToString())
    return made


def example_request(once: dict, items: list[dict]) -> bytes:
    request = predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec(name="bench"))
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(as_examples(once, items)))
    return request.SerializeToString()


def rank_request(once: dict, items: list[dict], kinds: dict[str, Input]) -> bytes:
    spec = model_pb2.ModelSpec(name="bench", version_label="stable")
    return predict_request(spec, "rank", kinds, request_columns(once, items, kinds))


def tensors(once: dict, items: list[dict], kinds: dict[str, Input], whole: bool) -> dict[str, tf.Tensor]:
    """Inputs of `rank`, or of `predict` with the request's features at every candidate."""
    rows = [{**once, **item} for item in items]
    columns = columns_of(rows, kinds) if whole else request_columns(once, items, kinds)
    return {name: tf.constant(column) for name, column in columns.items()}


def p50(contenders: dict[str, list], turns: int, calls_of_a_turn: int = 1) -> dict[str, float]:
    """Median milliseconds of each contender, a list of calls without arguments; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for calls in contenders.values():
        for call in calls:
            call()
            call()
    order = list(contenders)
    rng = np.random.default_rng(0)
    for turn in range(turns):
        rng.shuffle(order)
        for name in order:
            for i in range(calls_of_a_turn):
                call = contenders[name][(turn + i) % len(contenders[name])]
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
    return {name: round(1000 * float(np.median(t)), 3) for name, t in times.items()}


def in_process(signatures, made, candidates: int, turns: int) -> tuple[dict[str, float], float]:
    """p50 of each signature, and the largest difference of `rank`'s scores from those of serving_default."""
    kinds = inputs_of(made)
    contenders: dict[str, list] = {"serving_default": [], "predict": [], "rank": []}
    worst = 0.0
    for seed in range(4):
        once, items = request_of(made, candidates, seed)
        examples = tf.constant(as_examples(once, items))
        by_row, by_side = tensors(once, items, kinds, True), tensors(once, items, kinds, False)
        contenders["serving_default"].append(lambda x=examples: signatures["serving_default"](x)["pctcvr"].numpy())
        contenders["predict"].append(lambda x=by_row: signatures["predict"](**x)["pctcvr"].numpy())
        contenders["rank"].append(lambda x=by_side: signatures["rank"](**x)["pctcvr"].numpy())
        expected, found = signatures["serving_default"](examples), signatures["rank"](**by_side)
        worst = max([worst, *(float(np.abs(expected[n] - found[n]).max()) for n in expected)])
    return p50(contenders, turns), worst


def requests(made, candidates: int, turns: int) -> dict[str, dict[str, float]]:
    kinds = inputs_of(made)
    pairs = [request_of(made, candidates, seed) for seed in range(4)]
    sizes = {
        "examples": float(np.median([len(example_request(*p)) for p in pairs])),
        "rank": float(np.median([len(rank_request(*p, kinds)) for p in pairs])),
    }
    times = p50(
        {
            "examples": [lambda p=p: example_request(*p) for p in pairs],
            "rank": [lambda p=p: rank_request(*p, kinds) for p in pairs],
        },
        turns,
    )
    return {"bytes": sizes, "encoding_ms": times}


def through_server(server: ServerProcess, signatures, made, turns: int) -> dict[str, float]:
    """p50 of `rank` at 300 candidates by gRPC and in process, and of a bare gRPC echo of as many bytes.

    A turn is ten calls: who sends requests runs no model in between, which would leave the next request to find its
    code gone from the processor's caches and the other model's threads still awake.
    """
    kinds = inputs_of(made)
    pairs = [request_of(made, 300, seed) for seed in range(4)]
    requests = [rank_request(*pair, kinds) for pair in pairs]
    with Client(server.address, "bench", timeout=60, retries=0) as client, echo(_ANSWER) as ask:
        contenders = {
            "grpc": [client.prepare(*p).send for p in pairs],
            "in_process": [
                lambda x=tensors(*p, kinds, False): {n: v.numpy() for n, v in signatures["rank"](**x).items()}
                for p in pairs
            ],
            "echo": [lambda r=r: ask(r, timeout=60) for r in requests],
        }
        found = p50(contenders, max(1, turns // 10), 10)
    return {**found, "adds_ms": round(found["grpc"] - found["in_process"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=200, help="turns of every contender")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load at each rate")
    parser.add_argument("--skip-load", action="store_true", help="leave the load test out")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    result: dict = {"benchmark": "serving", "in_process_ms": {}, "requests": {}}
    made = features()
    with tempfile.TemporaryDirectory() as work:
        console.print("exporting the model")
        began = time.monotonic()
        path = saved_model(Path(work))
        result["export_s"] = round(time.monotonic() - began, 1)
        signatures = tf.saved_model.load(str(path)).signatures
        worst = 0.0
        for n in CANDIDATES:
            result["in_process_ms"][n], difference = in_process(signatures, made, n, arguments.turns)
            worst = max(worst, difference)
            result["requests"][n] = requests(made, n, max(3, arguments.turns // 4))
            console.print(f"{n} candidates: {result['in_process_ms'][n]}, {result['requests'][n]}")
        result["largest_difference"] = worst
        repository = ModelRepository(Path(work) / "models", "bench")
        repository.promote(repository.publish(path, reason="benchmark"), "benchmark")
        console.print("starting the server")
        with ServerProcess(Path(work) / "models") as server:
            result["server_ms"] = through_server(server, signatures, made, arguments.turns)
            console.print(str(result["server_ms"]))
            if not arguments.skip_load:
                result["load"] = under_load(server.address, 300, arguments.seconds, console)
                result["ideal_p99_to_p50"] = {n: ideal_tails(n) for n in sorted({os.cpu_count() or 1, 2, 4, 8})}
    result["targets"] = targets(result)
    console.print_json(json.dumps(result["targets"]))
    print(json.dumps(result))


def targets(result: dict) -> dict[str, dict]:
    timed = result["in_process_ms"][1000]
    sizes = [r["bytes"]["rank"] / r["bytes"]["examples"] for r in result["requests"].values()]
    encoding = [r["encoding_ms"]["rank"] / r["encoding_ms"]["examples"] for r in result["requests"].values()]
    found = {
        "rank to serving_default, 1000": timed["rank"] / timed["serving_default"],
        "rank to predict, 1000": timed["rank"] / timed["predict"],
        "request bytes": max(sizes),
        "encoding time": max(encoding),
        "server adds ms, 300": result["server_ms"]["adds_ms"],
    }
    if "load" in result:
        found["p99 to p50 at 70 %"] = result["load"]["at"]["0.7"]["p99_to_p50"]
    return {n: {"found": round(v, 3), "bound": TARGETS[n], "met": bool(v <= TARGETS[n])} for n, v in found.items()}


if __name__ == "__main__":
    main()
