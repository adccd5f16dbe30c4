"""What the doctor finds, and that it finds what is wrong."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

import pytest
import tensorflow as tf
from typer.testing import CliRunner

from pipeline import doctor
from pipeline.cli import app

LOCAL = ("--runner=FnApiRunner",)


def found(root=None, options=LOCAL, gpu=False):
    return {finding.name: finding for finding in doctor.examine(root, options, gpu=gpu)}


def test_a_machine_that_works(tmp_path):
    result = CliRunner(env={"COLUMNS": "250"}).invoke(app, ["doctor", "--root", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    for text in (f"tensorflow {version('tensorflow')}", "FnApiRunner runs a pipeline", "can be written to"):
        assert text in result.output
    assert os.listdir(tmp_path / "new") == []


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    findings = found(str(tmp_path / "file" / "root"))
    assert not findings["root"].works
    assert findings["versions"].works and findings["beam"].works


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there():
    assert found()["devices"].works
    findings = found(gpu=True)
    assert not findings["devices"].works and "expected a GPU, TensorFlow sees none" in findings["devices"].text


def test_an_engine_that_does_not_answer():
    finding = found(options=("--runner=PortableRunner", "--job_endpoint=localhost:9", "--job_server_timeout=2"))["beam"]
    assert not finding.works and finding.text.startswith("PortableRunner")


def test_an_engine_that_hangs(monkeypatch):
    monkeypatch.setattr(doctor, "_ENGINE_SECONDS", 0)
    assert found()["beam"].text == "FnApiRunner did not answer within 0 s"


def test_an_engine_that_counts_wrong():
    with pytest.raises(ValueError, match="the sum of 0 to 9 is 45, got 44"):
        doctor._check_sum(44)


def test_a_missing_package(monkeypatch):
    def without(package):
        if package == "apache-beam":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor.importlib.metadata, "version", without)
    finding = doctor._versions()
    assert not finding.works and finding.text.endswith("missing: apache-beam")
