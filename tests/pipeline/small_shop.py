"""A small simulated shop, and runs of the whole pipeline on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline import summary
from pipeline.cli import app
from pipeline.summary import Summary

NAME = "small-shop"
FIRST_RUN, NEXT_DAY = "2026-01-04", "2026-01-05"
"""Last days of the windows: three training days and one evaluation day end there."""

SIMULATION = {
    "users": 300, "items": 120, "categories": 6, "exposures-per-day": 4000, "days": 7, "rows-per-file": 1500,
    "ctr": 0.2, "cvr": 0.3, "purchase-window": "1d", "clock-skew": "2s", "seed": 3,
}  # fmt: skip

CONFIG = {
    "name": NAME,
    "logs": {
        "exposures": {"path": "exposures/{date}/*.parquet"},
        "events": {
            "click": {"path": "clicks/{date}/*.parquet"},
            "purchase": {"path": "purchases/{date}/*.parquet", "columns": {"value": "value"}},
        },
    },
    "attribution": {"windows": {"click": "30m", "purchase": "1d"}, "clock_skew": "2s"},
    "window": {"last_day": FIRST_RUN, "train_days": 3, "eval_days": 1},
    "features": [
        # Rare users are left out, so that tokens outside of the vocabulary are trained and scored too.
        {"name": "user_id", "kind": "id", "side": "user", "dimension": 8, "vocabulary": {"min_count": 20}},
        {
            "name": "history", "kind": "id_list", "side": "user", "dimension": 8, "max_length": 5, "shares": "item_id",
        },
        {"name": "item_id", "kind": "id", "side": "item", "dimension": 8},
        {"name": "seller", "kind": "id", "side": "item", "dimension": 4, "hash_buckets": 20},
        {"name": "price", "kind": "number", "side": "item", "log": True},
        {"name": "price_band", "kind": "bucketed", "column": "price", "side": "item", "dimension": 4, "quantiles": 5},
        {"name": "device", "kind": "id", "side": "context", "dimension": 4},
        {"name": "hour", "kind": "bucketed", "side": "context", "dimension": 4, "boundaries": [8, 16]},
        {"name": "position", "kind": "id", "side": "context", "dimension": 4},
    ],
    "tasks": [{"name": "ctr", "label": "click"}, {"name": "cvr", "label": "purchase", "joint": "ctcvr"}],
    "model": {
        "trunk": {"name": "shared_bottom", "bottom": {"units": [16]}},
        "heads": {"name": "entire_space", "tower": [8]},
    },
    "balancer": {"name": "uncertainty"},
    "training": {"epochs": 2, "batch_size": 256, "checkpoint_every": 2},
    "validation": {"schema": "schema.pbtxt", "drift": {"device": 0.2}},
    # The floors are so low that a model must be compared to fail.
    "gates": [
        {"task": "ctr", "metric": "auc", "at_least": 0.2, "not_worse_by": 0.1},
        {"task": "ctr", "metric": "log_loss", "not_worse_by": 0.05},
        {"task": "ctcvr", "metric": "auc", "at_least": 0.2},
    ],
    "evidence": {
        "replicates": 100, "price": "price", "rules": [{"task": "ctr", "metric": "auc", "not_worse_by": 0.1}],
    },
    "serving": {"model_name": "ranker"},
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A run that has ended: what the command gave, and what it found where it came to its end."""

    command: Result
    summary: Summary | None

    @property
    def states(self) -> dict[str, str]:
        assert self.summary is not None, self.command.output
        return {c.name: c.state for c in self.summary.result.components}

    def output(self, component: str, key: str) -> Path:
        assert self.summary is not None, self.command.output
        return self.summary.result.output(component, key)


@dataclass(frozen=True)
class Shop:
    """Logs, configuration and root of a pipeline.

    Attributes:
      folder: where it all is.
      repository: root of the model repository.
    """

    folder: Path
    repository: Path

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def config(self) -> Path:
        return self.folder / "shop.yaml"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def labels_file(self) -> Path:
        return self.repository / "ranker" / "labels.json"

    def arguments(self, *options: object, logs: Path | None = None, root: Path | None = None) -> list[str]:
        """The command line of a run."""
        given = ["run", "--config", self.config, "--logs", logs or self.logs, "--root", root or self.root]
        return [str(a) for a in (*given, "--set", f"serving.repository={self.repository}", *options)]

    def run(self, *options: object, logs: Path | None = None, root: Path | None = None) -> Done:
        """`seesaw run`, in this process."""
        found: list[Summary] = []
        with pytest.MonkeyPatch.context() as patch:
            render = summary.render
            patch.setattr(summary, "render", lambda result, console: (found.append(result), render(result, console)))
            command = invoke(*self.arguments(*options, logs=logs, root=root))
        return Done(command, found[0] if found else None)

    def with_repository(self, name: str) -> Shop:
        """The same shop with a copy of the model repository, which the run's cache does not know."""
        copy = self.folder / name
        shutil.copytree(self.repository, copy)
        return Shop(self.folder, copy)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Asserts that versions and labels are the same after as before, byte by byte."""
        before = files(self.repository)
        assert any(path.name == "labels.json" for path in before)
        yield
        assert files(self.repository) == before


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def open_shop(folder: Path) -> Shop:
    """Simulates the logs, writes the configuration and infers the schema."""
    shop = Shop(folder, folder / "models")
    options = [str(word) for name, value in SIMULATION.items() for word in (f"--{name}", value)]
    simulated = invoke("simulate", "--out", str(shop.logs), *options)
    assert simulated.exit_code == 0, simulated.output
    shop.config.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    schema = invoke("schema", *shop.arguments()[1:])
    assert schema.exit_code == 0, schema.output
    return shop


def linked(logs: Path, copy: Path) -> Path:
    """A copy of the logs whose files may be removed and made anew, but not be written to."""
    return shutil.copytree(logs, copy, copy_function=os.link, ignore=shutil.ignore_patterns("truth"))
