"""Executor of OfflineABTest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from absl import logging
from pydantic import TypeAdapter
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.baseline.layout import baseline_version, has_model
from components.offline_ab.config import EvidenceConfig, Rule
from components.offline_ab.document import Evidence, Scorer, Side
from components.offline_ab.gather import gather_evidence
from components.offline_ab.page import write_page
from components.offline_ab.rows import ScoredRows
from components.offline_ab.scoring import (
    LoggedScores,
    ScoredBy,
    ScoreExamples,
    ScoringSpec,
    column_dtypes,
    columns_read,
    outputs_of,
    read_scores,
)
from models.section import UserError
from models.tasks import TaskConfig
from models.tasks import outputs as outputs_of_chain

SCORES = "scores"
"""Folder of the scored rows, beside the document."""


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of OfflineABTest.

    Input keys: examples, model, baseline_model. Output key: evidence. Parameters: config, tasks, slices, splits.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        tasks = TypeAdapter(tuple[TaskConfig, ...]).validate_json(exec_properties["tasks"])
        baseline_uri = artifact_utils.get_single_uri(input_dict["baseline_model"])
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        splits = json.loads(exec_properties["splits"])
        files = example_files(
            uri for split in splits for uri in artifact_utils.get_split_uris(input_dict["examples"], split)
        )
        version = baseline_version(baseline_uri)
        baseline, obstacle = None, "no model is in service"
        if has_model(baseline_uri):
            path = path_utils.serving_model_dir(baseline_uri)
            missing = missing_outputs(path, tasks)
            obstacle = f"the model in service (version {version}) has no output {', '.join(missing)}" if missing else ""
            baseline = None if missing else (Scorer(name=f"version {version}", source=path, version=version), path)
        uri = artifact_utils.get_single_uri(output_dict["evidence"])
        evidence = compare(
            files,
            tasks,
            json.loads(exec_properties["slices"]),
            EvidenceConfig.from_json(exec_properties["config"]),
            baseline=baseline,
            candidate=(Scorer(name="candidate", source=model), model),
            folder=uri,
            pipeline=self._make_beam_pipeline(),
            not_compared=obstacle,
        )
        logging.info("Evidence: %s. %s", evidence.verdict, "; ".join(evidence.reasons))


def compare(
    files: Sequence[str],
    tasks: tuple[TaskConfig, ...],
    slices: Sequence[Sequence[str]],
    config: EvidenceConfig,
    *,
    baseline: tuple[Scorer, ScoredBy] | None,
    candidate: tuple[Scorer, ScoredBy],
    folder: str,
    pipeline: beam.Pipeline,
    not_compared: str | None = None,
    rules: Sequence[Rule] | None = None,
) -> Evidence:
    """Scores examples with both sides in one pass, and writes the evidence and the scores to a folder.

    Args:
      files: TFRecord files of serialized tf.Examples.
      tasks: the chain.
      slices: columns to cut by.
      config: see EvidenceConfig.
      baseline, candidate: who they are, and what scores: the folder of a SavedModel, or logged scores.
      folder: gets evidence.json, evidence.html and scores/*.parquet.
      pipeline: the Beam pipeline to run the scoring on.
      not_compared: why there is no baseline.
      rules: take the place of the configuration's.

    Only outputs that both sides give are compared.

    Raises:
      UserError: naming the column, model or file that is not as expected.
    """
    sides: dict[Side, ScoredBy] = {"candidate": candidate[1]}
    if baseline is not None:
        sides = {"baseline": baseline[1], **sides}
    scores = os.path.join(folder, SCORES)
    evidence = gather_evidence(
        score_examples(files, tasks, slices, config, sides, scores, pipeline),
        tasks,
        slices,
        config,
        baseline=baseline[0] if baseline else None,
        candidate=candidate[0],
        source=os.path.dirname(files[0]),
        not_compared=not_compared,
        rules=rules,
        links={"examples": os.path.dirname(files[0]), "scores of every row": scores},
    )
    evidence.write(folder)
    write_page(evidence, Path(folder))
    return evidence


def score_examples(
    files: Sequence[str],
    tasks: tuple[TaskConfig, ...],
    slices: Sequence[Sequence[str]],
    config: EvidenceConfig,
    sides: Mapping[Side, ScoredBy],
    folder: str,
    pipeline: beam.Pipeline,
) -> ScoredRows:
    """Scores examples with every side in one pass, by the outputs that all of them give.

    Args:
      files: TFRecord files of serialized tf.Examples.
      tasks: the chain.
      slices: columns to cut by.
      config: see EvidenceConfig.
      sides: what scores: the folder of a SavedModel, or logged scores.
      folder: gets the scores of every row, in Parquet files.
      pipeline: the Beam pipeline to run on.

    Raises:
      UserError: naming the column, model or file that is not as expected.
    """
    if not files:
        raise UserError("expected files of examples to compare on, found none")
    names = tuple(o.name for o in outputs_of_chain(tasks))
    given = [outputs_of(by) if isinstance(by, str) else tuple(by.columns) for by in sides.values()]
    compared = tuple(name for name in names if all(name in of_side for of_side in given))
    if not compared:
        found = " and ".join(", ".join(of_side) for of_side in given)
        raise UserError(f"expected scores that both sides give, of {', '.join(names)}; found {found}")
    labels = tuple(t.label for t in tasks)
    by_slice = tuple(dict.fromkeys(column for columns in slices for column in columns))
    logged = [c for by in sides.values() if isinstance(by, LoggedScores) for c in by.columns.values()]
    weight = [config.weight] if config.weight != EvidenceConfig().weight else []
    spec = ScoringSpec(
        outputs=compared,
        labels=labels,
        slices=by_slice,
        sides=dict(sides),
        config=config,
        dtypes=column_dtypes(
            files,
            columns_read(config, labels, by_slice, sides),
            required=[config.user, config.request, *labels, *logged, *weight],
        ),
    )
    fileio.makedirs(folder)
    with pipeline:
        _ = pipeline | "Files" >> beam.Create(list(files)) | "ScoreExamples" >> ScoreExamples(spec, folder)
    return read_scores(folder)


def example_files(folders: Iterable[str]) -> list[str]:
    """Files of examples in some folders, by name."""
    found = []
    for folder in folders:
        found += sorted(os.path.join(folder, name) for name in fileio.listdir(folder) if not name.startswith("."))
    return [f for f in found if not fileio.isdir(f)]


def missing_outputs(path: str, tasks: tuple[TaskConfig, ...]) -> list[str]:
    """Outputs of the chain that a SavedModel does not give."""
    given = outputs_of(path)
    return [o.name for o in outputs_of_chain(tasks) if o.name not in given]
