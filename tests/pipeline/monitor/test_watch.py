"""The page and the document, and which days are looked at."""

import io
import json
import sys
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from components.offline_ab.document import Estimate
from models.section import UserError
from pipeline.monitor.checks import Check, calibration_checks, drift_checks, metric_checks, missing_slices
from pipeline.monitor.config import MonitorConfig
from pipeline.monitor.page import render, write_page
from pipeline.monitor.run import Watch, stable_version
from serving.model_repository import ASSETS, ModelRepository

sys.path.append(str(Path(__file__).parent))
from test_checks import judged


def watch(noise=0.6, drift=0.01):
    then, now = judged(0), judged(1, noise=noise, devices=3)
    config = MonitorConfig()
    checks = [
        *metric_checks(then, now, config),
        *calibration_checks(then, now, config),
        *drift_checks({"tab": drift, "<b>": 0.4}, {"tab": 0.1}),
    ]
    days = date(2026, 1, 5), date(2026, 1, 6)
    return Watch("shop", 3, *days, (date(2026, 1, 4), date(2026, 1, 4)), then, now, checks, missing_slices(then, now))


def test_a_fine_day(tmp_path):
    found = watch()
    text = write_page(found, tmp_path).read_text()
    assert '<div class="banner good"><strong>All is within its limits' in text
    assert "Version 3 of shop in service" in text and "2026-01-05 to 2026-01-06" in text
    assert "&lt;b&gt;" in text and "<script" not in text and "nan" not in text
    assert "1 slices were not there" in text
    document = json.loads(found.write(tmp_path).read_text())
    assert (document["state"], document["alerts"], document["version"]) == ("fine", [], 3)
    assert len(document["checks"]) == len(found.checks) and document["checks"][0]["now"]["value"] > 0.5
    assert render(found, tmp_path / "page", Console(quiet=True)) is False


def test_an_alert_is_named_first(tmp_path):
    found = watch(noise=3.0, drift=0.2)
    document = json.loads(found.write(tmp_path).read_text())
    assert document["state"] == "alert" and {"ctr auc", "tab drift"} <= set(document["alerts"])
    text = write_page(found, tmp_path).read_text()
    banner = text[text.index('<div class="banner bad">') : text.index("<h2>")]
    assert f"{len(document['alerts'])} limits passed" in banner and "ctr auc: 0." in banner
    assert "tab: its distribution is 0.2000 away" in banner and "the limit is 0.1" in banner
    console = Console(record=True, width=200, file=io.StringIO())
    assert render(found, tmp_path / "page", console) is True
    assert "tab: its distribution is 0.2000 away" in console.export_text()


def test_a_figure_without_an_interval_has_no_strip(tmp_path):
    found = watch()
    unknown = Check("ctr", "auc", {}, Estimate(value=0.7), Estimate(value=0.6), Estimate(value=-0.1), 0.01, "unknown")
    text = write_page(Watch(**{**vars(found), "checks": [unknown]}), tmp_path).read_text()
    assert "too little data" in text and "No feature has a limit." in text and 'class="strip"' not in text


class Settings:
    """What `stable_version` reads of a configuration."""

    class serving:
        repository = None
        model_name = "shop"


def test_there_must_be_a_version_with_what_it_was_judged_by(tmp_path):
    with pytest.raises(UserError, match="no model is in service, so there is nothing to watch"):
        stable_version(Settings, tmp_path)
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "saved_model.pb").write_text("model")
    repository = ModelRepository(tmp_path / "models", "shop")
    number = repository.publish(saved, reason="test")
    repository.promote(number, "test")
    with pytest.raises(UserError, match=r"version 1 has no evidence.json .* watching begins with the next version"):
        stable_version(Settings, tmp_path)
    for name in ("evidence.json", "statistics/evaluation/FeatureStats.pb"):
        path = repository.path / "1" / ASSETS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert stable_version(Settings, tmp_path).number == 1
