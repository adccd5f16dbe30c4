"""What a Baseline component leaves in its artifact, and how others read it.

baseline.json            {"version": 3}, or null before the first promotion
NO_MODEL_IN_SERVICE      only where there is no model
Format-Serving/          the SavedModel, where TFX looks for it, with what publishing added
"""

from __future__ import annotations

import json
import os

from tfx.dsl.io import fileio
from tfx.utils import path_utils

from serving.model_repository import ASSETS

VERSION_FILE = "baseline.json"
NO_MODEL = "NO_MODEL_IN_SERVICE"
STATISTICS = "statistics/FeatureStats.pb"
"""Where Promotion puts the training statistics, in the folder for what publishing adds."""
EVALUATION_STATISTICS = "statistics/evaluation/FeatureStats.pb"
"""The same of the evaluation days."""


def has_model(uri: str) -> bool:
    """Whether a model was in service; `uri` is that of the baseline artifact."""
    return fileio.exists(os.path.join(path_utils.serving_model_dir(uri), "saved_model.pb"))


def baseline_version(uri: str) -> int | None:
    """Number of the version that was in service, None before the first promotion."""
    with fileio.open(os.path.join(uri, VERSION_FILE), "r") as file:
        return json.loads(file.read())["version"]


def statistics_file(uri: str) -> str | None:
    """The training statistics of the model in service, None where it has none."""
    path = os.path.join(path_utils.serving_model_dir(uri), ASSETS, STATISTICS)
    return path if fileio.exists(path) else None
