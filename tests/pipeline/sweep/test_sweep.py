"""Whole sweeps on toy rows: what a killed one leaves is used, and a failing training stops only itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from models.section import UserError
from pipeline.sweep.page import write_page
from pipeline.sweep.rows import Rows

REPOSITORY = Path(__file__).parents[3]
sys.path.append(str(Path(__file__).parent))
from toy_sweep import run, toy_columns, write_toy  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DISTINCT = 2 + 1 + 2 + 2
"""Trainings that can succeed: trials, tuned weights, the grid, a model of each task."""


def results(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "trainings").glob("*.json")}


def running(folder):
    """Processes that have the folder among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"pipeline.sweep.worker" in command:
            found.append(int(process.name))
    return found


def wait(for_what, seconds=500):
    end = time.monotonic() + seconds
    while not (found := for_what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that was killed after its second training and then run to its end, one result of the two being lost.

    Folder, what was kept, the lost result, what was told, and what was found.
    """
    folder = tmp_path_factory.mktemp("sweep")
    write_toy(folder)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("toy_sweep.py"), folder], env=environment)
    try:
        wait(lambda: len(results(folder)) >= 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait(lambda: not running(folder), 20)  # no worker outlives the sweep
    kept = results(folder)
    path = min(kept, key=kept.get)
    lost = json.loads(path.read_text())
    path.unlink()
    del kept[path]
    told = []
    return folder, kept, (path, lost), told, run(folder, tell=told.append)


def test_a_killed_sweep_goes_on(swept):
    folder, kept, _, told, _ = swept
    after = results(folder)
    assert 1 <= len(kept) < DISTINCT == len(after)
    assert {path: after[path] for path in kept} == kept
    assert told[0].done >= 1 and told[0].last is None
    assert (told[-1].done, told[-1].left) == (DISTINCT, 0) and told[-1].done + told[-1].failed == told[-1].total
    assert not list((folder / "trainings").glob(".part*"))


def test_a_failure_is_told_and_stops_nothing_else(swept):
    *_, told, found = swept
    names = {name for name, _ in found.failures}
    # Without a trial there are no tuned weights of that model.
    assert len(found.failures) == 4 and all(name.startswith("impossible, static") or "pcgrad" in name for name in names)
    assert all("expected at least two embedded features" in why for _, why in found.failures)
    assert {p.model for p in found.points} == {"small", "single-task"}
    assert [p.error for p in told if p.error] == [why for _, why in found.failures]


def test_metrics_are_those_of_the_scores(swept):
    folder, *_, found = swept
    rows = Rows.read(folder / "rows").evaluation
    for path in (folder / "trainings").glob("*.json"):
        result = json.loads(path.read_text())
        if result["training"]["judged_on"] != "evaluation":
            continue
        scores = np.load(path.with_suffix(".npz"))
        clicked = rows["click"] == 1
        for task, label, counted in (("ctr", "click", ...), ("cvr", "purchase", clicked), ("ctcvr", "purchase", ...)):
            if f"p{task}" not in scores:
                continue
            y, p = rows[label][counted], scores[f"p{task}"][counted]
            metrics = result["metrics"][task]
            assert metrics["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
            assert metrics["log_loss"] == pytest.approx(log_loss(y, p.astype(np.float64)), rel=1e-9)
            assert metrics["calibration"] == pytest.approx(p.sum(dtype=np.float64) / y.sum(), rel=1e-9)
    single = {p.balancer: p for p in found.points if p.kind == "single"}
    assert set(single) == {"ctr", "ctcvr"} and set(single["ctcvr"].auc) == {"ctcvr"}


def test_trials_are_judged_on_the_last_training_day(swept):
    folder, *_, found = swept
    rows = Rows.read(folder / "rows").train
    last = rows["@day"] == rows["@day"].max()
    by_weight = {w["cvr"]: auc for w, auc in found.trials["small"]}
    seen = {}
    for path in (folder / "trainings").glob("*.json"):
        result = json.loads(path.read_text())
        if result["training"]["judged_on"] == "last_training_day":
            scores = np.load(path.with_suffix(".npz"))
            aucs = [roc_auc_score(rows[y][last], scores[p]) for y, p in (("click", "pctr"), ("purchase", "pctcvr"))]
            seen[result["training"]["balancer"]["weights"]["cvr"]] = np.mean(aucs)
    assert by_weight == pytest.approx(seen) and set(seen) == {0.25, 4.0}
    (tuned,) = [p for p in found.points if p.kind == "tuned"]
    assert tuned.weights["cvr"] == max(seen, key=seen.get)
    assert found.trials["impossible"] == [({"ctr": 1.0, "cvr": w}, None) for w in (0.25, 4.0)]


def test_the_same_training_finds_the_same_figures(swept):
    _, _, (path, before), *_ = swept
    after = json.loads(path.read_text())
    assert after["training"] == before["training"] and after["metrics"] == before["metrics"]
    assert [w["loss_ctr"] for w in after["record"]["windows"]] == [w["loss_ctr"] for w in before["record"]["windows"]]


def test_the_page_and_the_document(swept, tmp_path):
    *_, found = swept
    found.write(tmp_path / "sweep.json")
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["objectives"] == ["ctr", "ctcvr"] and len(written["points"]) == len(found.points)
    text = write_page(found, tmp_path / "sweep.html").read_text()
    for point in found.points:
        assert all(f"{auc:.4f}" in text for auc in point.auc.values())
    assert "expected at least two embedded features" in text and "nan" not in text.lower().replace("nano", "")


def test_too_little_to_learn_from_is_said_before_anything_is_trained(tmp_path):
    write_toy(tmp_path)
    one_day = toy_columns(1200, 20454, 1, 0)
    np.save(tmp_path / "rows" / "train" / "5.npy", one_day["@day"])
    with pytest.raises(UserError, match="expected at least 2 days with rows, got 1"):
        run(tmp_path)
    write_toy(tmp_path / "other")
    np.save(tmp_path / "other" / "rows" / "eval" / "3.npy", np.zeros(500, np.int8))
    with pytest.raises(UserError, match="label 'purchase': expected both 0 and 1 in the evaluation days"):
        run(tmp_path / "other")
    assert not (tmp_path / "trainings").exists()
