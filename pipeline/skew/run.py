"""Reads what was served, finds the same rows where training reads them, and scores them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from components.log_example_gen.config import ExposureColumns, ExposureLog, LogsConfig
from components.log_example_gen.encoding import encode
from components.log_example_gen.local_days import day_numbers
from components.log_example_gen.parsing import (
    EVENT_TIME,
    HASH,
    ITEM_ID,
    REQUEST_ID,
    LogSpec,
    log_specs,
    parse_file,
)
from components.log_example_gen.window import EXPOSURES, LogFile, exposure_files
from models.section import UserError
from models.tasks import outputs as outputs_of
from pipeline.config import Config
from pipeline.pipeline import repository_root
from pipeline.skew.compare import FeatureSkew, ScoreSkew, feature_skew, score_skew
from serving import served_log
from serving.model_repository import ModelRepository

SKEW_FILE = "skew.json"
_BATCH = 4096
_SAMPLE = 1000


@dataclass(frozen=True)
class Skew:
    """What was found.

    Attributes:
      model: its name.
      first_day, last_day: of the served rows.
      versions: rows compared by version of the model.
      served: rows of the log of what is served.
      rejected: rows of it that cannot be read.
      compared: rows that training has too, and whose version is in the repository.
      unmatched: rows that training does not have.
      gone: rows of versions that are no longer in the repository, or whose version was not logged.
      features: compared features, the most different one first.
      replayed: scores of the served features by training's path beside those that were served.
      training: scores of training's features beside those that were served.
      as_served: features that were not compared.
      points: per output, served and training scores of some rows.
      rows: share of the rows that may differ.
    """

    model: str
    first_day: date
    last_day: date
    versions: dict[int, int]
    served: int
    rejected: int
    compared: int
    unmatched: int
    gone: int
    features: tuple[FeatureSkew, ...]
    replayed: tuple[ScoreSkew, ...]
    training: tuple[ScoreSkew, ...]
    as_served: tuple[str, ...]
    points: dict[str, tuple[list[float], list[float]]]
    rows: float

    @property
    def found(self) -> list[str]:
        """What differs in more rows than allowed, in words; empty without skew."""
        said = [
            f"served {s.output} is not what the model gives for the served features: {s.rows:,} rows "
            f"({s.share:.2%}), by up to {s.largest:.2g}"
            for s in self.replayed
            if s.share > self.rows
        ]
        for f in self.features:
            if f.share > self.rows:
                by = f", by {f.mean:.4g} on average and up to {f.largest:.4g}" if f.mean is not None else ""
                said.append(f"feature '{f.name}' differs in {f.rows:,} rows ({f.share:.2%}){by}")
        said += [
            f"{s.output} of training's features differs in {s.rows:,} rows ({s.share:.2%}), by {s.mean:.2g} on average "
            f"and up to {s.largest:.2g}"
            for s in self.training
            if s.share > self.rows
        ]
        return said

    def write(self, folder: Path) -> Path:
        """Writes skew.json."""
        path = folder / SKEW_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "points"}
        for name in ("features", "replayed", "training"):
            document[name] = [dataclasses.asdict(part) for part in document[name]]
        document |= {"first_day": str(self.first_day), "last_day": str(self.last_day), "found": self.found}
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return path


def measure(config: Config, served: Path, root: Path) -> Skew:
    """Compares a log of what was served with the exposures of the configuration.

    A row is known by request and item. Its features are compared as the join reads them from either log; its scores
    are those that were served, those of the same features by signature `serving_default`, which evaluation uses, and
    those of training's features.

    Args:
      config: the configuration: where the exposures are, and what to call a difference.
      served: folder that `serving.served_log.ServedLog` wrote.
      root: root of the runs, with the model repository.

    Raises:
      UserError: if there is nothing to compare, saying why.
    """
    names = tuple(o.name for o in outputs_of(config.tasks))
    logs = _served_logs(config.logs, served, names)
    spec = log_specs(logs, config.features)[EXPOSURES]
    files = exposure_files(logs)
    if not files:
        raise UserError(f"{served}: expected files of a log of what is served, found none ('{logs.exposures.path}')")
    ours, rejected = _read(files, spec)
    if not len(ours):
        raise UserError(f"{served}: none of the {rejected:,} rows can be read as an exposure")
    days = _days(ours, config.logs)
    theirs = _training_rows(config, ours, days)
    rows = len(ours)
    at = _places(ours, theirs)
    unmatched = int((at < 0).sum())
    if unmatched == rows:
        raise UserError(
            f"none of the {rows:,} served rows from {days[0]} to {days[-1]} is among the exposures in "
            f"{config.logs.root}: expected some with the same {config.logs.exposures.columns.request_id} and "
            f"{config.logs.exposures.columns.item_id}"
        )
    repository = ModelRepository(repository_root(config, root), config.serving.model_name)
    numbers = ours.column(served_log.VERSION).to_numpy()
    there = {v.number: v.path for v in repository.versions()}
    kept = (at >= 0) & np.isin(numbers, list(there))
    scored = ~np.isnan(np.stack([ours.column(served_log.SCORE + n).to_numpy() for n in names])).any(axis=0)
    kept &= scored
    if np.isnan(numbers).all():
        raise UserError(
            f"{served}: the rows do not tell which version served them, since REST does not tell its clients: let the "
            f"server keep the log, or the client ask by gRPC"
        )
    if not kept.any():
        raise UserError(f"{repository.path}: none of the versions that served is there, or no score was logged")
    ours, theirs = ours.filter(pa.array(kept)), theirs.take(pa.array(at[kept]))
    numbers = numbers[kept].astype(np.int64)
    for name in config.skew.as_served:
        theirs = theirs.set_column(theirs.column_names.index(name), name, ours.column(name))
    told = {n: ours.column(served_log.SCORE + n).to_numpy().astype(np.float32) for n in names}
    replay = {n: np.zeros(len(ours), np.float32) for n in names}
    trained = {n: np.zeros(len(ours), np.float32) for n in names}
    features = [f.name for f in config.features]
    for number in np.unique(numbers):
        where = np.flatnonzero(numbers == number)
        model = tf.saved_model.load(str(there[int(number)])).signatures["serving_default"]
        for table, into in ((ours, replay), (theirs, trained)):
            for name, values in _score(model, table.select(features).take(pa.array(where)), names).items():
                into[name][where] = values
    change = np.mean([np.abs(told[n] - trained[n]) for n in names], axis=0)
    keys = (ours.column(REQUEST_ID), ours.column(ITEM_ID))
    compared = [
        feature_skew(f, ours.column(f.name), theirs.column(f.name), keys, change, config.skew.number)
        for f in config.features
        if f.name not in config.skew.as_served
    ]
    worst = np.sort(np.argsort(-change, kind="stable")[:_SAMPLE])
    return Skew(
        model=config.serving.model_name,
        first_day=days[0],
        last_day=days[-1],
        versions={int(n): int((numbers == n).sum()) for n in np.unique(numbers)},
        served=rows,
        rejected=rejected,
        compared=len(ours),
        unmatched=unmatched,
        gone=rows - unmatched - len(ours),
        features=tuple(sorted(compared, key=lambda f: (-f.rows, f.name))),
        replayed=score_skew(told, replay, names, config.skew.score),
        training=score_skew(told, trained, names, config.skew.score),
        as_served=config.skew.as_served,
        points={n: (trained[n][worst].tolist(), told[n][worst].tolist()) for n in names},
        rows=config.skew.rows,
    )


def _served_logs(logs: LogsConfig, served: Path, outputs: Iterable[str]) -> LogsConfig:
    """The log of what is served, as the exposure log of the join's reader."""
    keys = logs.exposures.columns
    exposures = ExposureLog(
        path="{date}/*.parquet",
        columns=ExposureColumns(
            request_id=served_log.REQUEST_ID, time=served_log.TIME, item_id=keys.item_id, user_id=keys.user_id
        ),
        extra={served_log.VERSION: "number", **{served_log.SCORE + name: "number" for name in outputs}},
    )
    return logs.model_copy(update={"root": str(served), "exposures": exposures})


def _read(files: Iterable[LogFile], spec: LogSpec, only: np.ndarray | None = None) -> tuple[pa.Table, int]:
    """The rows of some files, those with a hash among `only`, and the number of rejected ones."""
    tables, rejected = [spec.schema.empty_table()], 0
    for file in files:
        for parsed in parse_file(file, spec):
            rejected += len(parsed.rejected)
            rows = parsed.rows
            if only is not None:
                rows = rows.filter(pa.array(np.isin(rows.column(HASH).to_numpy(), only)))
            tables.append(rows)
    return pa.concat_tables(tables), rejected


def _days(rows: pa.Table, logs: LogsConfig) -> list[date]:
    times = rows.column(EVENT_TIME)
    ends = np.array([pc.min(times).as_py(), pc.max(times).as_py()], np.int64)
    first, last = (date.fromordinal(n) for n in day_numbers(ends, logs.timezone).tolist())
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]


def _training_rows(config: Config, ours: pa.Table, days: list[date]) -> pa.Table:
    """The exposures of the configuration that have the keys of served rows."""
    spec = log_specs(config.logs, config.features)[EXPOSURES]
    late = [days[-1] + timedelta(days=i + 1) for i in range(config.logs.lateness_days)]
    files = [f for day in (*days, *late) for f in exposure_files(config.logs, day)]
    if not files:
        raise UserError(
            f"{config.logs.root}: no exposures from {days[0]} to {days[-1]}, the days that were served; "
            f"--logs says where they are"
        )
    names = [f.name for f in config.features]
    wanted = ours.column(HASH).to_numpy()
    return _read(files, spec, np.unique(wanted))[0].select(list(dict.fromkeys([HASH, REQUEST_ID, ITEM_ID, *names])))


def _places(ours: pa.Table, theirs: pa.Table) -> np.ndarray:
    """The row of `theirs` with the key of each of ours, the first one; -1 where there is none."""
    found, first = np.unique(theirs.column(HASH).to_numpy(), return_index=True)
    if not len(found):
        return np.full(len(ours), -1)
    keys = ours.column(HASH).to_numpy()
    at = np.minimum(np.searchsorted(found, keys), len(found) - 1)
    return np.where(found[at] == keys, first[at], -1)


def _score(model, features: pa.Table, outputs: Iterable[str]) -> dict[str, np.ndarray]:
    """Scores by signature `serving_default`, on the tf.Examples that the join would write."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    (argument,) = model.structured_input_signature[1]
    for batch in _batches(encode(features)):
        scores = model(**{argument: tf.constant(batch)})
        for name, parts in found.items():
            parts.append(scores[name].numpy().reshape(-1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _batches(examples: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for example in examples:
        batch.append(example)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
