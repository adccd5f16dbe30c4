from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from models.section import UserError, parse_duration
from pipeline.cli import app
from pipeline.run_folder import RunFolder
from pipeline.simulator import DirtConfig, SimulationConfig
from tests.components.log_example_gen.log_files import parse_example

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "pipeline" / "configs" / "demo.yaml"
sys.path.append(str(Path(__file__).parent))  # TFX imports executors by name
import toy_components  # noqa: E402


def invoke(*args: object, columns: int = 80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(a) for a in args])


def commands() -> dict[str, object]:
    """All commands by their full name."""

    def walk(name, command):
        if hasattr(command, "commands"):
            for sub, child in command.commands.items():
                yield from walk(f"{name} {sub}".strip(), child)
        else:
            yield name, command

    return dict(walk("", get_command(app)))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "logs"
    result = invoke("simulate", "--out", folder, "--exposures-per-day", 2000, "--days", 8)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def config(tmp_path, logs):
    """The demo's configuration on five training days, with a schema that is there."""
    settings = yaml.safe_load(DEMO.read_text())
    settings["logs"]["root"] = str(logs)
    settings["window"] = {"train_days": 4, "eval_days": 1}
    settings["validation"] = {"schema": "demo.schema.pbtxt"}
    path = tmp_path / "config" / "demo.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    path.with_name("demo.schema.pbtxt").touch()
    return path


# Help


def test_help_does_not_wait_for_tensorflow():
    slow = ("tensorflow", "tfx", "apache_beam", "pandas")
    code = f"import pipeline.cli, sys; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline", "--help"], cwd=REPOSITORY, capture_output=True, check=True)
    assert time.monotonic() - started < 5  # well below TensorFlow's imports, on a busy machine too


def test_commands():
    assert set(commands()) == {
        "run", "check", "schema", "join", "compare", "forget", "sweep", "monitor", "simulate", "serve", "rollback",
        "prune", "loadtest", "canary", "models-config", "skew", "doctor", "dataset kuairand", "config schema",
        "config show", "kubeflow compile", "kubeflow submit", "kubeflow schedule", "kubeflow runs", "kubeflow backfill",
    }  # fmt: skip


@pytest.mark.parametrize("name", commands())
@pytest.mark.parametrize("columns", [80, 120])
def test_help_of_each_command(name, columns):
    command = commands()[name]
    for parameter in command.params:
        assert parameter.help or "help" in parameter.opts[0], f"{name} {parameter.name} is not explained"
    if any(p.required for p in command.params):
        assert f"Example: `seesaw {name} " in command.epilog
    shown = invoke(*name.split(), "--help", columns=columns).stdout
    assert max(len(line) for line in shown.splitlines()) <= columns
    for parameter in command.params:
        assert parameter.opts[0] in shown


def test_simulate_has_the_options_of_the_simulation():
    options = {p.name: p.default for p in commands()["simulate"].params}
    defaults = SimulationConfig()
    for name in SimulationConfig.model_fields:
        if name == "dirt":
            continue
        value = getattr(defaults, name)
        given = options["format_" if name == "format" else name]
        if isinstance(value, date):
            given = date.fromisoformat(given)
        elif isinstance(value, timedelta):
            given = parse_duration(given)
        assert given == value, name
    dirt = next(p for p in commands()["simulate"].params if p.name == "dirt")
    assert [kind for kind in DirtConfig.model_fields if kind not in dirt.help] == []


# Errors


@pytest.mark.parametrize(
    "args",
    [
        ["run", "--config", "missing.yaml", "--root", "x"],
        ["run"],
        ["unknown"],
        ["simulate", "--out", "x", "--ctr", "y"],
    ],
)
def test_wrong_usage_ends_with_2(args):
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_mistakes_in_the_configuration(config, tmp_path):
    for command in (["check"], ["run", "--root", tmp_path / "root"], ["config", "show"]):
        result = invoke(*command, "--config", config, "--set", "training.epochs=many")
        assert result.exit_code == 1
        assert 'training.epochs: expected a valid integer, got "many"' in result.stderr
        assert "Traceback" not in result.stderr
    result = invoke("config", "show", "--config", config, "--set", "training.epochs=many", "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_last_day_that_is_no_day(config):
    result = invoke("check", "--config", config, "--last-day", "31.1.2026")
    assert result.exit_code == 1
    assert "--last-day: expected a day as YYYY-MM-DD, got '31.1.2026'" in result.stderr


def test_mistakes_in_the_simulation(tmp_path):
    result = invoke("simulate", "--out", tmp_path / "x", "--days", 0, "--dirt", "late=0.7", "--format", "xml")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: --days: expected greater than or equal to 1, got 0",
        "--format: expected 'parquet', 'csv' or 'jsonl', got 'xml'",
        "--dirt late: expected less than or equal to 0.5, got 0.7",
    ]
    result = invoke("simulate", "--out", tmp_path / "x", "--dirt", "late")
    assert "--dirt late: expected KIND=SHARE" in result.stderr
    assert not (tmp_path / "x").exists()


def test_folders_of_others_are_not_replaced(tmp_path):
    (tmp_path / "mine").touch()
    result = invoke("simulate", "--out", tmp_path)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert (tmp_path / "mine").exists()


def test_unforeseen_errors_say_so(monkeypatch, config):
    def load(*args, **kwargs):
        raise KeyError("surprise")

    monkeypatch.setattr("pipeline.config.load", load)
    result = invoke("config", "show", "--config", config)
    assert result.exit_code == 1
    assert "KeyError: 'surprise'" in result.stderr
    assert "--verbose" in result.stderr


def test_interrupt_ends_with_130(monkeypatch, config):
    def load(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.config.load", load)
    result = invoke("config", "show", "--config", config)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


# Configuration


def test_config_schema():
    schema = json.loads(invoke("config", "schema").stdout)
    assert schema["type"] == "object"
    assert set(schema["required"]) >= {"name", "logs", "window", "features"}


def test_config_show_writes_defaults_out(config):
    result = invoke("config", "show", "--config", config, "--set", "training.epochs=3", "--last-day", "2026-01-04")
    assert result.exit_code == 0, result.stderr
    shown = yaml.safe_load(result.stdout)
    assert shown["training"]["epochs"] == 3
    assert shown["training"]["warm_start"] is True  # not in the file
    assert str(shown["window"]["last_day"]) == "2026-01-04"
    assert list(shown["logs"]["events"]) == ["click", "purchase"]


# Logs


def test_simulate(logs):
    again = invoke("simulate", "--out", logs, "--exposures-per-day", 2000, "--days", 8)
    assert again.exit_code == 0
    truth = json.loads((logs / "truth" / "truth.json").read_text())
    rows = {line.split()[0]: line.split()[1] for line in again.stdout.splitlines()[1:4]}
    read = {log: truth["reconciliation"]["logs"][name]["read"] for log, name in
            (("exposures", "exposures"), ("clicks", "click"), ("purchases", "purchase"))}  # fmt: skip
    assert rows == {log: f"{n:,}" for log, n in read.items()}
    assert f"{truth['ctr']:.4f} of exposures" in again.stdout
    assert str(logs) in again.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_check(config, logs, columns):
    result = invoke("check", "--config", config, columns=columns)
    assert result.exit_code == 0, result.stderr
    shown = result.stdout
    lines = shown.splitlines()
    truth = json.loads((logs / "truth" / "truth.json").read_text())
    kinds = truth["rows"]["exposures"]
    rejected = [line.split() for line in lines if line.startswith("exposures") and "part-" in line]
    reasons = {"bad_time", "time_out_of_range", "missing_value", "missing_column", "malformed_row"}
    assert {cells[2] for cells in rejected} <= reasons
    assert 0 < sum(int(cells[1]) for cells in rejected) <= kinds["malformed"] + kinds["missing_column"]
    assert "evaluation days  2026-01-06" in shown  # 8 days less 1 day and 30 minutes until purchases are final
    exposures = next(line for line in lines if line.startswith("exposures"))
    assert exposures.split()[2] == f"{5 * 2000:,}"  # all clean exposures of the window are joined
    assert next(line for line in lines if line.startswith("history")).split()[1] == "id_list"
    assert next(line for line in lines if line.startswith("price_band")).split()[:3] == ["price_band", "←", "price"]
    assert "shared_bottom, bottom.units [64, 32]" in shown
    assert "nothing found that would stop a run" in shown
    assert max(len(line) for line in lines if "heads " not in line and "parameters" not in line
               and "trunk" not in line and str(logs) not in line) <= columns  # fmt: skip


def test_check_tells_what_would_stop_a_run(config):
    settings = yaml.safe_load(config.read_text())
    settings["features"][1]["column"] = "no_such_column"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    config.with_name("demo.schema.pbtxt").unlink()
    result = invoke("check", "--config", config, columns=200)
    assert result.exit_code == 1
    assert "problems that would stop a run" in result.stdout
    assert "'no_such_column', which no file has" in result.stdout
    assert "feature 'age_group': no row has a value" in result.stdout
    assert "'seesaw schema' makes it from the logs" in result.stdout


def test_check_names_a_missing_day(config):
    result = invoke("check", "--config", config, "--set", "window.train_days=30")
    assert result.exit_code == 1
    assert "there is no file for 2025-12-31" in result.stderr


@pytest.mark.slow
def test_schema(config, tmp_path):
    path = config.with_name("demo.schema.pbtxt")
    refused = invoke("schema", "--config", config, "--root", tmp_path / "root")
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert path.read_text() == ""
    result = invoke("schema", "--config", config, "--root", tmp_path / "root", "--force")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[1:3] for line in result.stdout.splitlines() if "[" in line] == [
        [f"{i}/2]", name] for i, name in ((1, "LogExampleGen"), (2, "StatisticsGen")) for _ in range(2)
    ]  # fmt: skip
    assert 'name: "click"' in path.read_text()


@pytest.mark.slow
def test_forget(config, tmp_path):
    root = tmp_path / "root"
    refused = invoke("forget", "--root", config.parent)
    assert refused.exit_code == 1
    assert "--user ID or --users-file FILE" in refused.stderr
    made = invoke("schema", "--config", config, "--root", root, "--force")
    assert made.exit_code == 0, made.stderr
    (examples,) = (root / "artifacts/LogExampleGen/examples").iterdir()
    users = Counter(
        tf.train.Example.FromString(record.numpy()).features.feature["user_id"].bytes_list.value[0].decode()
        for record in tf.data.TFRecordDataset([str(f) for f in examples.glob("Split-*/*")])
    )
    (first, rows), (second, more) = users.most_common(2)
    (tmp_path / "users.txt").write_text(f"{second}\n\n")
    result = invoke("forget", "--root", root, "--user", first, "--users-file", tmp_path / "users.txt")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"2 users forgotten: {rows + more} examples of ")
    assert sum(int(line.split()[1]) for line in lines if re.match(r"\d{4}-\d\d-\d\d ", line)) == rows + more
    # What is left of them: the examples of the run, and what was made of these or together with them.
    held = {line.split(":")[0].strip(): line.split(": ")[1] for line in lines if str(root) in line}
    assert held["Examples"] == f"{examples} ({rows + more} rows)"
    assert set(held) == {"Examples", "seesaw.LogReport", "ExampleStatistics"}
    # The next run does not take its examples from the cache.
    again = invoke("schema", "--config", config, "--root", root, "--force")
    assert "cached" not in again.stdout
    assert len([*(root / "artifacts/LogExampleGen/examples").iterdir()]) == 2


def test_join(config, tmp_path):
    """The rows are those that a run trains on, in both forms, and the folder holds nothing else."""
    parquet, records = tmp_path / "parquet", tmp_path / "records"
    done = invoke("join", "--config", config, "--out", parquet)
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in parquet.iterdir()) == ["Split-eval", "Split-train", "report"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config", "parquet"]
    counts = json.loads((parquet / "report/report.json").read_text())["examples"]
    again = invoke("join", "--config", config, "--out", records, "--format", "tfrecord")
    assert again.exit_code == 0, again.stderr
    for split, found in counts.items():
        rows = pq.read_table(parquet / f"Split-{split}").to_pylist()
        assert len(rows) == found["rows"] > 0
        assert {label: sum(row[label] for row in rows) for label in found["labels"]} == found["labels"]
        files = sorted(str(f) for f in (records / f"Split-{split}").iterdir())
        examples = [parse_example(r.numpy()) for r in tf.data.TFRecordDataset(files)]
        for name in ("request_id", "item_id", "country"):
            assert [e[name][0].decode() for e in examples] == [row[name] for row in rows]
        for name in ("price", "event_time", "click", "purchase_value"):
            values = [e[name][0] if e[name] else None for e in examples]
            assert values == [np.float32(row[name]) if isinstance(row[name], float) else row[name] for row in rows]
    refused = invoke("join", "--config", config, "--out", parquet)
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr


def test_join_leaves_forgotten_users_out_and_nothing_behind(config, tmp_path):
    from components.log_example_gen.forgotten import NOBODY

    assert invoke("join", "--config", config, "--out", tmp_path / "all").exit_code == 0
    users = pq.read_table(tmp_path / "all/Split-train", columns=["user_id"]).column(0).to_pylist()
    (tmp_path / "root/joined").mkdir(parents=True)
    NOBODY.with_users(users[:1]).write(str(tmp_path / "root/joined"))
    done = invoke("join", "--config", config, "--out", tmp_path / "fewer", "--root", tmp_path / "root")
    assert done.exit_code == 0, done.stderr
    left = pq.read_table(tmp_path / "fewer/Split-train", columns=["user_id"]).column(0).to_pylist()
    assert left == [user for user in users if user != users[0]]
    failed = invoke("join", "--config", config, "--out", tmp_path / "none", "--set", "logs.exposures.path=x/{date}")
    assert failed.exit_code == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "config", "fewer", "root"]


def test_join_that_rejects_too_much_leaves_its_report(config, tmp_path):
    failed = invoke("join", "--config", config, "--out", tmp_path / "rows", "--set", "logs.max_rejected=0")
    assert failed.exit_code == 1
    kept = tmp_path / "rows-stopped"
    assert f"All rejected rows are in the report: {kept}/report.html" in failed.stderr.replace("\n", " ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config", "rows-stopped"]
    assert "The run was stopped." in (kept / "report.html").read_text()
    assert pq.read_table(kept / "rejected").num_rows > 0


# Runs


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """`seesaw run` on a pipeline of toys; gives the folder of their control files."""
    control = tmp_path / "control"
    control.mkdir()
    monkeypatch.setenv(toy_components.CONTROL, str(control))
    monkeypatch.setattr(
        "pipeline.pipeline.create_pipeline", lambda config, root, inputs: toy_components.toy_pipeline(root)
    )
    monkeypatch.setattr("pipeline.summary.summarise", lambda config, root, result: result)
    monkeypatch.setattr(
        "pipeline.summary.render", lambda result, console: console.print(f"nothing changed: {result.nothing_changed}")
    )
    return control


def test_run(toy, config, tmp_path):
    (toy / "First").write_text("print")
    root = tmp_path / "root"
    first = invoke("run", "--config", config, "--root", root)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.splitlines()[0] == ("demo: training days 2026-01-02 to 2026-01-05, evaluation days 2026-01-06")
    assert [line.split()[2:4][:2] for line in first.stdout.splitlines()[1:7]] == [
        [name, state] for name in ("First", "Second", "Third") for state in ("running", "done")
    ]
    assert first.stdout.splitlines()[-1] == "nothing changed: False"
    (log,) = root.glob("logs/*/run.log")
    assert "written by C++" in log.read_text()
    assert "written by C++" not in first.output
    again = invoke("run", "--config", config, "--root", root)
    assert again.stdout.splitlines()[-1] == "nothing changed: True"
    anew = invoke("run", "--config", config, "--root", root, "--no-cache")
    assert anew.stdout.splitlines()[-1] == "nothing changed: False"


def test_run_that_fails(toy, config, tmp_path):
    (toy / "Second").write_text("error")
    result = invoke("run", "--config", config, "--root", tmp_path / "root")
    assert result.exit_code == 1
    (error_file,) = tmp_path.glob("root/logs/*/error.txt")
    assert result.stderr.startswith("error: Second: RuntimeError: expected [4]\n")
    assert str(error_file) in result.stderr
    assert "Traceback" not in result.stderr
    assert [line.split()[3:] for line in result.stdout.splitlines()][-1] == ["not", "run"]


def test_run_that_is_interrupted(toy, config, tmp_path):
    (toy / "Second").write_text("interrupt")
    result = invoke("run", "--config", config, "--root", tmp_path / "root")
    assert result.exit_code == 130
    (toy / "Second").unlink()
    result = invoke("run", "--config", config, "--root", tmp_path / "root")
    assert result.exit_code == 0
    assert "First                    cached" in result.stdout


def test_error_before_the_first_component_is_kept(toy, monkeypatch, config, tmp_path):
    def create_pipeline(config, root, inputs):
        raise UserError("the pipeline cannot be made")

    monkeypatch.setattr("pipeline.pipeline.create_pipeline", create_pipeline)
    result = invoke("run", "--config", config, "--root", tmp_path / "root")
    assert result.exit_code == 1
    assert result.stderr == "error: the pipeline cannot be made\n"
    (error_file,) = tmp_path.glob("root/logs/*/error.txt")
    assert "create_pipeline" in error_file.read_text()


def test_root_in_use(toy, config, tmp_path):
    with RunFolder(tmp_path / "root"):
        result = invoke("run", "--config", config, "--root", tmp_path / "root")
    assert result.exit_code == 1
    assert f"process {os.getpid()}" in result.stderr
