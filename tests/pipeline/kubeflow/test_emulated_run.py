"""The compiled pipeline, each step executed as the backend's launcher would, from raw logs to the promoted model."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from models.runtime import prepare_process

prepare_process()
pytest.importorskip("kfp", reason="the extra 'kubeflow' is not installed")

import tensorflow as tf  # noqa: E402

from components.log_example_gen.window import resolve_window  # noqa: E402
from components.promotion import read_verdict  # noqa: E402
from pipeline.config import Config, load  # noqa: E402
from pipeline.kubeflow import entrypoint  # noqa: E402
from pipeline.kubeflow.compiler import compile_pipeline  # noqa: E402
from pipeline.kubeflow.config import COMPONENTS  # noqa: E402
from pipeline.simulator import SimulationConfig, simulate  # noqa: E402
from serving.model_repository import ModelRepository  # noqa: E402
from tests.warm import WarmPython  # noqa: E402

sys.path.append(str(Path(__file__).parent))
from backend import Backend, Json, Step, StepFailed  # noqa: E402

# Each step is a process of its own.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).parents[3]
DEMO = REPOSITORY / "pipeline" / "configs" / "demo.yaml"

SHOP = {
    "users": 300, "items": 120, "categories": 6, "exposures_per_day": 2000, "days": 6, "rows_per_file": 1500,
    "ctr": 0.2, "cvr": 0.3, "purchase_window": "1d", "seed": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A backend, the pipeline on it, and what the containers see."""

    folder: Path
    backend: Backend
    config: Config
    spec: Json

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def run(self, **parameters: Any) -> dict[str, Step]:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": "-1",
        }  # fmt: skip
        return self.backend.run(self.spec, {"root": str(self.root), **parameters}, environment)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, warm_python) -> Cluster:
    folder = tmp_path_factory.mktemp("cluster")
    simulate(SimulationConfig.model_validate_json(json.dumps(SHOP)), folder / "logs")
    config = load(
        DEMO,
        logs=folder / "logs",
        # Two days of a few rows do not make a good model: the floor is so low that any passes.
        overrides=(
            "window.train_days=2", "validation.drift={}", "evaluation.slices=[]",
            "gates=[{task: ctr, metric: auc, at_least: 0.1}]",
        ),
    )  # fmt: skip
    spec, *_ = yaml.safe_load_all(compile_pipeline(config, "seesaw:test").text)
    return Cluster(folder, Misses(folder / "artifacts", warm_python), config, spec)


class Miss(Exception):
    """A step would have been run, and not answered from the cache."""


class Misses(Backend):
    """A backend that, once `frozen`, runs nothing but what may not be cached, and that in this process."""

    frozen = False

    def __init__(self, folder: Path, warm_python: WarmPython):
        super().__init__(folder)
        self._warm_python = warm_python

    def _start(self, step, environment):
        if not self._cache:  # the first starts as in a container, with nothing imported
            return super()._start(step, environment)
        return self._warm_python.run(step.command, env=environment, cwd="/")

    def _execute(self, step, log, environment):
        if not self.frozen:
            return super()._execute(step, log, environment)
        if step.name != "RunSetup":
            raise Miss(step.name)
        with mock.patch.object(sys, "argv", sys.argv):
            entrypoint.main(step.command[3:])


@pytest.fixture(scope="module")
def first(cluster) -> dict[str, Step]:
    try:
        return cluster.run(epochs=2)
    finally:
        cluster.backend.frozen = True


def test_every_step_ran_in_the_image_of_the_run(first):
    assert set(first) == set(COMPONENTS)
    for step in first.values():
        assert not step.cached and step.image == "seesaw:test"
        assert step.command[:3] == ["python", "-m", "pipeline.kubeflow.entrypoint"]


def test_inputs_came_without_a_type(first):
    given = [a for s in first.values() for a in s.executor_input["inputs"]["artifacts"].values()]
    assert len(given) >= 15
    assert all(a["artifacts"][0]["type"] == {"instanceSchema": ""} for a in given)


def test_the_window_was_found_in_the_cluster(cluster, first):
    window = resolve_window(cluster.config.logs, cluster.config.attribution, cluster.config.window)
    assert json.loads(first["RunSetup"].parameters["window"]) == window.model_dump(mode="json")
    examples = first["LogExampleGen"].artifacts["examples"]
    assert examples["metadata"]["last_day"] == str(window.last_day)
    assert json.loads(examples["metadata"]["split_names"]) == ["train", "eval"]


def test_the_model_was_promoted(cluster, first):
    verdict = read_verdict(first["Promotion"].artifacts["promotion"]["uri"])
    assert (verdict.verdict, verdict.version, verdict.baseline) == ("promote", 1, None)
    stable = ModelRepository(cluster.root / "models", "demo").stable()
    assert stable is not None and stable.number == 1
    assert (stable.path / "saved_model.pb").is_file()


def test_the_hyperparameters_of_the_run_reached_the_trainer(first):
    record = json.loads(next(Path(first["Trainer"].artifacts["model_run"]["uri"]).rglob("training.json")).read_text())
    shards = Path(first["LogExampleGen"].artifacts["examples"]["uri"], "Split-train").iterdir()
    rows = sum(1 for _ in tf.data.TFRecordDataset(sorted(map(str, shards))))
    assert record["steps"] == 2 * math.ceil(rows / 512)


def test_the_same_run_again_is_answered_from_the_cache(cluster, first):
    again = cluster.run(epochs=2)
    assert [name for name, step in again.items() if not step.cached] == ["RunSetup"]
    assert again["Promotion"].artifacts == first["Promotion"].artifacts
    assert [v.number for v in ModelRepository(cluster.root / "models", "demo").versions()] == [1]


def test_another_window_is_joined_anew(cluster, first):
    last_day = json.loads(first["RunSetup"].parameters["window"])["first_eval_day"]
    earlier = f"{last_day[:-2]}{int(last_day[-2:]) - 1:02}"
    with pytest.raises(Miss, match="Baseline|LogExampleGen"):
        cluster.run(epochs=2, last_day=earlier)


def test_other_hyperparameters_have_their_own_baseline(cluster, first):
    with pytest.raises(Miss, match="Baseline"):
        cluster.run(epochs=1)


def test_a_changed_log_file_is_joined_anew(cluster, first):
    file = next((cluster.folder / "logs" / "clicks").rglob("*.parquet"))
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    try:
        with pytest.raises(Miss, match="Baseline|LogExampleGen"):
            cluster.run(epochs=2)
    finally:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_mistake_is_told_in_the_containers_log(cluster, first, monkeypatch):
    monkeypatch.setattr(cluster.backend, "frozen", False)
    with pytest.raises(StepFailed, match="error: last_day: expected a day such as 2026-01-31, or 'latest', got 'soon'"):
        cluster.run(last_day="soon")
