"""Do real rows of KuaiRand get the scores of the trainer, whichever way they go to the embedded server?

Three days of the slice are joined, transformed and trained on by the pipeline's own components, with all features of
pipeline/configs/kuairand.yaml, in one epoch; the trainer's Keras model scores evaluation rows as it ends. The exported
model is published and promoted, and the embedded server scores the same rows from their raw tf.Examples: by
`serving_default` over gRPC, by `predict` over gRPC and REST, by `rank` over gRPC and REST, a request for each set of
rows that is alike in user and context. Requests to `rank` with many candidates are put together from one row's user and
context and other rows' items, and held against `predict`.

    python tests/benchmarks/parity_kuairand.py --work FOLDER

The last line printed is JSON: the largest difference of any probability, rows and requests for each way.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import grpc
import numpy as np
import pyarrow as pa
import tensorflow as tf
from kuairand import CONFIG, SOURCE
from serving_process import ServerProcess
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tfx.utils import path_utils

from components.serving_check.check import rows_with_scores
from components.serving_check.rows import Columns, Input, as_columns, inputs_of, requests, signature_defs
from components.trainer import reference
from pipeline.config import load
from pipeline.datasets.kuairand import convert
from pipeline.local_runner import RunResult, run_pipeline
from pipeline.pipeline import create_pipeline, resolve_inputs
from serving.client import Client, Scores
from serving.fresh_process import FreshModel
from serving.model_repository import ModelRepository
from serving.native import LIBRARY, NativeSignature

DAYS = ("window.train_days=2", "window.eval_days=1", "training.epochs=1")
LIMIT = 1e-5
_TIMEOUT = 120.0
_BATCH = 500


def train(source: Path, work: Path, rows: int) -> RunResult:
    """The pipeline up to its Trainer, which scores more rows than it does by itself."""
    convert(source, work / "logs")
    config = load(CONFIG, logs=work / "logs", overrides=DAYS)
    inputs = resolve_inputs(config, work / "run")
    # TFX loads run_fn anew, so what it imports is what has to change.
    reference.score_reference = functools.partial(reference.score_reference, rows=rows + 4096)
    return run_pipeline(create_pipeline(config, (work / "run").resolve(), inputs), work / "run", only=("Trainer",))


def ways(address: str, rest: str, examples: np.ndarray, columns: Columns, inputs: dict[str, Input]) -> Iterator[tuple]:
    """Name of a way, its scores by output in the order of the rows, and the number of its requests."""
    rows = len(examples)
    parts = [np.arange(rows)[start : start + _BATCH] for start in range(0, rows, _BATCH)]
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield "serving_default, gRPC", parts, lambda some: _by_stub(stub, examples[some])
        for transport, where in (("grpc", address), ("rest", rest)):
            shown = {"grpc": "gRPC", "rest": "REST"}[transport]
            with Client(where, "kuairand", transport=transport, timeout=_TIMEOUT) as client:
                yield f"predict, {shown}", parts, lambda some: _taken(client.predict(_table(columns, some)))
                alike = list(requests(columns, inputs))
                yield f"rank, {shown}", alike, lambda some: _taken(_ranked(client, columns, inputs, some[0], some))


def crossed(address: str, columns: Columns, inputs: dict[str, Input], number: int, candidates: int) -> float:
    """Largest difference of `rank` to `predict`, both over gRPC, in requests of many candidates."""
    rows = len(next(iter(columns.values())))
    rng = np.random.default_rng(0)
    worst = 0.0
    with Client(address, "kuairand", timeout=_TIMEOUT) as client:
        for _ in range(number):
            first, items = rng.integers(rows), rng.integers(rows, size=candidates)
            ranked = _taken(_ranked(client, columns, inputs, first, items))
            mixed = {n: columns[n][np.full(candidates, first) if k.once else items] for n, k in inputs.items()}
            predicted = _taken(client.predict(_table(mixed, np.arange(candidates))))
            worst = max(worst, *(float(np.abs(ranked[name] - predicted[name]).max()) for name in predicted))
    return worst


def _by_stub(stub: prediction_service_pb2_grpc.PredictionServiceStub, examples: np.ndarray) -> Columns:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "kuairand"
    request.model_spec.version_label = "stable"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(examples.tolist()))
    answer = stub.Predict(request, _TIMEOUT)
    return {name: tf.make_ndarray(values) for name, values in answer.outputs.items()}


def _ranked(client: Client, columns: Columns, inputs: dict[str, Input], first: int, items: np.ndarray) -> Scores:
    once = {name: columns[name][first] for name, kind in inputs.items() if kind.once}
    each = {name: columns[name] for name, kind in inputs.items() if not kind.once}
    return client.rank(once, _table(each, items))


def _table(columns: Columns, rows: np.ndarray) -> pa.Table:
    return pa.table({name: pa.array(values[rows].tolist()) for name, values in columns.items()})


def _taken(scores: Scores) -> Columns:
    return {name: values for name, values in scores.outputs.items() if name != "order"}


def difference(expected: Columns, sets: list[np.ndarray], ask: Callable[[np.ndarray], Columns]) -> float:
    """Largest difference of any probability to those expected of its row."""
    worst = 0.0
    for some in sets:
        for name, values in ask(some).items():
            worst = max(worst, float(np.abs(values.astype(np.float64) - expected[name][some]).max()))
    return worst


def run(source: Path, work: Path, rows: int) -> dict:
    trained = train(source, work, rows)
    model = Path(path_utils.serving_model_path(str(trained.output("Trainer", "model"))))
    scored = reference.Reference.read(str(trained.output("Trainer", "model_run")))
    definitions = signature_defs(model)
    names = {
        signature: NativeSignature(
            *({alias: info.name for alias, info in tensors.items()} for tensors in (found.inputs, found.outputs))
        )
        for signature, found in definitions.items()
    }
    split = trained.output("LogExampleGen", "examples") / "Split-eval"
    with FreshModel(Path(tf.__file__).parent / LIBRARY, model, names) as fresh:
        examples, expected = rows_with_scores(fresh, sorted(map(str, split.iterdir())), scored, rows)
    assert len(examples) == rows
    inputs = inputs_of(definitions["rank"])
    columns = as_columns(examples, inputs)
    repository = ModelRepository(work / "models", "kuairand")
    repository.promote(repository.publish(model, reason="parity"), "parity")
    result: dict = {"benchmark": "parity_kuairand", "rows": len(examples), "features": len(inputs)}
    result["users"] = len(np.unique(columns["user_id"].astype(bytes)))
    with ServerProcess(work / "models") as server:
        found = {}
        for name, sets, ask in ways(server.address, server.rest_address, examples, columns, inputs):
            begin = time.monotonic()
            worst = difference(expected, sets, ask)
            assert sum(map(len, sets)) == len(examples)
            found[name] = {"requests": len(sets), "difference": worst, "seconds": round(time.monotonic() - begin, 1)}
            print(name, found[name], flush=True)
        result["ways"] = found
        result["rank of 100 candidates to predict"] = crossed(server.address, columns, inputs, 100, 100)
    worst = max(result["rank of 100 candidates to predict"], *(way["difference"] for way in found.values()))
    return {**result, "difference": worst, "within": LIMIT, "passed": worst <= LIMIT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the slice")
    parser.add_argument("--work", type=Path, required=True, help="new folder for what is made")
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    print(json.dumps(run(arguments.source, arguments.work, arguments.rows)))


if __name__ == "__main__":
    main()
