"""Loads an exported model as TF Serving does, and holds what it answers against what the trainer knows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.serving_check.config import LatencyBudget, ServingCheckConfig
from components.serving_check.document import Latency, Parity, ServingVerdict
from components.serving_check.matching import matches
from components.serving_check.rows import Columns, Input, as_columns, as_request, inputs_of, requests, signature_defs
from components.serving_check.scores import wrong_scores
from components.serving_check.warm_up import write_batching, write_warm_up
from components.trainer.reference import Reference
from models.example_files import example_records
from models.preprocessing import features_from_json
from models.section import UserError, format_duration
from models.tasks import TaskConfig
from serving.fresh_process import FreshModel, FreshProcessError
from serving.native import LIBRARY, NativeError, NativeSignature
from serving.transform_graph import DESCRIPTION, check_transform
from serving.value import value_formula

_BATCH = 1024
_REQUESTS = 200  # to `rank`, at most
_CROSSED, _ITEMS = 10, 100  # requests of rows put together, and their candidates
_SECONDS = 1.0  # for the requests of one size
_TRIES = 3  # to keep within the budget: neighbours on the machine only ever add time
_WANTED = ("serving_default", "predict", "transform_features")
_UNKNOWN_OPERATION = "Op type not registered"


class _Refused(Exception):
    """What makes further checks pointless."""


def check_model(
    model: Path,
    examples: Sequence[str],
    reference: Reference,
    tasks: tuple[TaskConfig, ...],
    config: ServingCheckConfig,
    *,
    name: str,
    files: Path,
) -> ServingVerdict:
    """Checks a model, and writes what is to be published with it.

    Args:
      model: folder of the SavedModel.
      examples: TFRecord files of serialized raw tf.Examples, of the days that the reference is of.
      reference: transformed rows with the trainer's scores.
      tasks: the chain.
      config: see ServingCheckConfig.
      name: of the model in the repository.
      files: folder that gets warm-up requests and batching parameters if the model is blessed.
    """
    found = _Findings(tasks, config)
    try:
        check_transform(model)
        definitions = signature_defs(model)
        if missing := [wanted for wanted in _WANTED if wanted not in definitions]:
            raise _Refused(f"expected a signature '{missing[0]}', found {', '.join(sorted(definitions)) or 'none'}")
        signatures = {
            signature: NativeSignature(
                {alias: info.name for alias, info in definition.inputs.items()},
                {alias: info.name for alias, info in definition.outputs.items()},
            )
            for signature, definition in definitions.items()
        }
        with FreshModel(Path(tf.__file__).parent / LIBRARY, model, signatures) as fresh:
            found.load_seconds = fresh.seconds
            raw, expected = rows_with_scores(fresh, examples, reference, config.rows)
            columns = as_columns(raw, inputs_of(definitions["predict"]))
            found.compare("serving_default", [fresh.run("serving_default", {"examples": raw})], [expected])
            found.compare("predict", [fresh.run("predict", columns)], [expected])
            sized = _sized("predict", columns, config.latency, len(raw))
            if "rank" in definitions:
                asked = inputs_of(definitions["rank"])
                rows = [rows for rows, _ in zip(requests(columns, asked), range(_REQUESTS))]
                answers = [fresh.run("rank", as_request(columns, asked, some)) for some in rows]
                found.compare("rank", answers, [_taken(expected, some) for some in rows])
                crossed = list(_crossed(columns, asked, len(raw)))
                answers = [fresh.run("rank", as_request(one, asked, slice(None))) for one in crossed]
                found.compare("rank", answers, [fresh.run("predict", one) for one in crossed], of="signature predict")
                found.check_order(model, crossed, answers)
                sized = {
                    size: ("rank", as_request(columns, asked, np.resize(np.arange(len(raw)), size))) for size in sized
                }
            for budget in config.latency:
                found.time(fresh, *sized[budget.candidates], budget)
    except (UserError, _Refused, FreshProcessError) as error:
        found.reasons.append(str(error))
    except NativeError as error:
        found.reasons.append(_explained(error))
    if not found.reasons:
        small = [("serving_default", {"examples": raw[:1]}), ("serving_default", {"examples": raw[:_BATCH]})]
        small += [("predict", {n: values[:rows] for n, values in columns.items()}) for rows in (1, _BATCH)]
        write_warm_up(files, name, [*small, *sized.values()])
        write_batching(files, max(sized, default=_BATCH))
    return found.verdict()


class _Findings:
    """Collects what is found, and what is wrong with it."""

    def __init__(self, tasks: tuple[TaskConfig, ...], config: ServingCheckConfig):
        self._tasks, self._config = tasks, config
        self.reasons: list[str] = []
        self.load_seconds: float | None = None
        self._parity: list[Parity] = []
        self._latency: list[Latency] = []

    def verdict(self) -> ServingVerdict:
        return ServingVerdict(
            blessed=not self.reasons,
            reasons=tuple(self.reasons),
            load_seconds=self.load_seconds,
            parity=tuple(self._parity),
            latency=tuple(self._latency),
        )

    def compare(self, signature: str, answers: list[Columns], expected: list[Columns], of: str = "the trainer") -> None:
        """Holds the scores of some requests against those that are expected."""
        scores = _joined(answers)
        wrong = wrong_scores(scores, self._tasks, signature)
        self.reasons += wrong
        if wrong:
            return
        largest, where = 0.0, ""
        for name, wanted in _joined(expected).items():
            apart = np.abs(scores[name].astype(np.float64) - wanted)
            worst = int(apart.argmax())
            if apart[worst] >= largest:
                largest = float(apart[worst])
                where = f"{name} {scores[name][worst]:.7g} instead of {wanted[worst]:.7g}"
        count = len(next(iter(scores.values())))
        self._parity.append(Parity(signature=signature, of=of, rows=count, requests=len(answers), difference=largest))
        if not largest <= self._config.tolerance:
            self.reasons.append(
                f"{signature}: expected the scores of {of} within {self._config.tolerance:g}, got a difference of "
                f"{largest:.3g} in {count:,} rows: {where}"
            )

    def check_order(self, model: Path, requests: list[Columns], answers: list[Columns]) -> None:
        """Holds the orders that `rank` gives against the values that the formula gives."""
        description = json.loads((model / DESCRIPTION).read_text(encoding="utf-8"))
        formula = value_formula(
            description["value"], features_from_json(json.dumps(description["features"])), self._tasks
        )
        for request, answer in zip(requests, answers):
            numbers = {name: tf.constant(values) for name, values in request.items() if name in formula.used}
            scores = {name: tf.constant(v) for name, v in answer.items() if name != "order"}
            values = formula({**scores, **numbers}).numpy()
            values = np.where(np.isfinite(values), values, np.finfo(values.dtype).min)
            order = answer["order"]
            right = np.array_equal(np.sort(order), np.arange(len(values)))
            if not right or not np.allclose(values[order], np.sort(values)[::-1], rtol=self._config.tolerance, atol=0):
                self.reasons.append(f"rank: expected candidates by falling {formula.text}, got the order {order[:10]}")
                return

    def time(self, model: FreshModel, signature: str, inputs: Columns, budget: LatencyBudget) -> None:
        """Times requests of a size, and holds them against its budget."""
        for _ in range(_TRIES):
            taken = model.time(signature, inputs, runs=self._config.runs, seconds=_SECONDS) * 1000
            p50, p99 = (float(np.percentile(taken, p)) for p in (50, 99))
            over = [
                f"latency: expected the {what} of {signature} with {budget.candidates:,} candidates within "
                f"{format_duration(limit)}, got {came:.1f}ms over {len(taken)} requests"
                for what, limit, came in (("p50", budget.p50, p50), ("p99", budget.p99, p99))
                if limit is not None and came > limit.total_seconds() * 1000
            ]
            if not over:
                break
        self.reasons += over
        self._latency.append(
            Latency(signature=signature, candidates=budget.candidates, runs=len(taken), p50_ms=p50, p99_ms=p99)
        )


def rows_with_scores(
    model: FreshModel, examples: Sequence[str], reference: Reference, rows: int
) -> tuple[np.ndarray, Columns]:
    """Raw rows that the model transforms to rows of the reference, and the trainer's scores of them."""
    raw: list[np.ndarray] = []
    places: list[np.ndarray] = []
    read = 0
    wanted = min(rows, len(reference))
    for batch in _batches(examples):
        transformed = model.run("transform_features", {"examples": batch})
        place = matches(reference.features, {name: transformed[name] for name in reference.features})
        read += len(batch)
        raw.append(batch[place >= 0])
        places.append(place[place >= 0])
        if sum(map(len, places)) >= wanted:
            break
    found = np.concatenate(places)[:wanted] if places else np.zeros(0, np.int64)
    if not wanted or len(found) < wanted:
        raise _Refused(
            f"transform_features: expected {wanted:,} of the {len(reference):,} rows that the trainer scored among the "
            f"{read:,} raw rows of the evaluation days, found {len(found):,}: the transform that serves is not the one "
            f"that wrote the trainer's rows"
        )
    return np.concatenate(raw)[:wanted], {name: values[found] for name, values in reference.scores.items()}


def _batches(files: Sequence[str]) -> Iterator[np.ndarray]:
    for file in files:
        yield from example_records(file).batch(_BATCH).as_numpy_iterator()


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _taken(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _crossed(columns: Columns, inputs: Mapping[str, Input], rows: int) -> Iterator[Columns]:
    """Requests in which the user and the context of one row meet the items of others, as rows.

    A log has hardly a request with one context where the place on the page is part of it.
    """
    for number in range(_CROSSED):
        first = number * rows // _CROSSED
        items = np.resize(np.arange(rows), first + _ITEMS)[first:]
        once = np.full(_ITEMS, first)
        yield {name: columns[name][once if kind.once else items] for name, kind in inputs.items()}


def _sized(
    signature: str, columns: Columns, budgets: Sequence[LatencyBudget], rows: int
) -> dict[int, tuple[str, Columns]]:
    """A request for each size."""
    sizes = [budget.candidates for budget in budgets]
    some = {size: np.resize(np.arange(rows), size) for size in sizes}
    return {size: (signature, {name: values[some[size]] for name, values in columns.items()}) for size in sizes}


def _explained(error: NativeError) -> str:
    text = str(error)
    if _UNKNOWN_OPERATION in text:
        return (
            f"the C++ loader does not know an operation of the model, and TF Serving will not either: some Python "
            f"package registers it, and must not be used in the model: {text}"
        )
    return f"the C++ loader refuses the model, as TF Serving would: {text}"
