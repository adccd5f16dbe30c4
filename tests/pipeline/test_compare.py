"""The command `compare`, on toy models and on logged scores."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from components.offline_ab import read_evidence
from pipeline.cli import app
from tests.components.toy_artifacts import save_model, write_examples

ROWS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(7)
    x, z = rng.normal(size=(2, ROWS)).astype(np.float32)
    click = (rng.random(ROWS) < 1 / (1 + np.exp(-x))).astype(np.int64)
    user = rng.integers(0, 300, ROWS)
    columns = {
        "x": x,
        "z": z,
        "user_id": np.array([f"u{u}" for u in user]),
        "request_id": np.array([f"r{r}" for r in user]),
        "tab": rng.choice(["a", "b"], ROWS),
        "arm": rng.choice(["old", "new"], 300)[user],
        "noise": rng.random(ROWS).astype(np.float32),
        "click": click,
        "purchase": click * (rng.random(ROWS) < 1 / (1 + np.exp(-z))).astype(np.int64),
    }
    write_examples(folder / "examples", columns)
    save_model(folder / "models/7", slope=1.0)
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["compare", *map(str, arguments)])


def test_model_against_logged_scores(folder):
    done = invoke(
        "logged:pctcvr=noise", folder / "models/7", "--examples", folder / "examples", "--out", folder / "out",
        "--slice", "tab",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    evidence = read_evidence(folder / "out")
    # One probability is all that both sides give.
    assert {m.task for m in evidence.metrics} == {"ctcvr"}
    assert {tuple(m.slice.items()) for m in evidence.metrics} == {(), (("tab", "a"),), (("tab", "b"),)}
    assert evidence.verdict == "promote" and evidence.rules[0].text == "ctcvr auc better by more than 0"
    assert (evidence.candidate.name, evidence.candidate.version) == ("7", 7)
    auc = next(m for m in evidence.metrics if m.metric == "auc" and not m.slice)
    shown = next(line.split() for line in done.stdout.splitlines() if line.split()[:2] == ["ctcvr", "auc"])
    assert shown[2:4] == [f"{auc.baseline.value:.4f}", f"{auc.candidate.value:.4f}"]
    assert shown[4] == f"{auc.difference.value:+.4f}"
    assert "B should serve" in done.stdout and str(folder / "out") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "logged:pctr=noise"], "nowhere: expected the folder of a SavedModel, found no saved_model.pb"),
        (["logged:noise", "logged:pctr=noise"], "'logged:noise': expected logged:OUTPUT=COLUMN"),
        (["logged:pctr=noise", "logged:pcvr=noise"], "expected scores that both sides give, of pctr, pcvr, pctcvr"),
        (["logged:pctr=nothing", "logged:pctr=noise"], "expected a column 'nothing' in the examples, found it in none"),
        (["logged:pctr=user_id", "logged:pctr=noise"], "column 'user_id': expected numbers in the examples"),
    ],
)
def test_what_cannot_be_compared_is_named(folder, tmp_path, arguments, message):
    done = invoke(*arguments, "--examples", folder / "examples", "--out", tmp_path)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_rows_must_come_from_somewhere(folder, tmp_path):
    done = invoke(folder / "models/7", folder / "models/7", "--out", tmp_path)
    assert done.exit_code == 1 and "expected --examples" in done.output
