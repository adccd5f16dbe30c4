"""Three components in a row whose behaviour a folder of control files decides, outside of the cache key.

Not `from __future__ import annotations`: TFX reads the annotations of components as objects.
"""

import os
import signal
import time
from pathlib import Path

import apache_beam as beam
from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import BeamComponentParameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from models.section import UserError

CONTROL = "TOY_CONTROL"


class ToyError(UserError):
    """A subclass, as components of the project raise."""


def act(name: str) -> None:
    """Appends to the log of what really ran, then does what the component's control file says."""
    control = Path(os.environ[CONTROL])
    with open(control / "ran", "a") as ran:
        ran.write(f"{name}\n")
    file = control / name
    order = file.read_text() if file.exists() else ""
    if order == "hang":
        (control / "hanging").touch()
        time.sleep(600)
    if order == "print":
        print("printed by a library")
        os.write(2, b"written by C++\n")
    if order == "user error":
        raise ToyError("clicks/2026-01-03: expected a folder, found none")
    if order == "error":
        raise RuntimeError("tensor of shape [3]\nexpected [4]")
    if order == "disk full":
        raise OSError(28, "No space left on device")
    if order == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if order == "interrupt turned into an error":
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("as TensorFlow does") from None


class RaiseToyError(beam.DoFn):
    def process(self, element):
        raise ToyError(f"row {element}: expected a number, got 'x'")


@component
def First(
    text: tfx.dsl.components.Parameter[str], data: tfx.dsl.components.OutputArtifact[standard_artifacts.Examples]
):
    Path(data.uri).mkdir(parents=True, exist_ok=True)
    Path(data.uri, "half").write_text(text)
    act("First")
    Path(data.uri, "whole").write_text(text)


@component
def Second(
    data: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    model: tfx.dsl.components.OutputArtifact[standard_artifacts.Model],
):
    Path(model.uri).mkdir(parents=True, exist_ok=True)
    Path(model.uri, "half").write_text("")
    act("Second")
    Path(model.uri, "whole").write_text(Path(data.uri, "whole").read_text().upper())


@component(use_beam=True)
def Third(
    model: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    pushed: tfx.dsl.components.OutputArtifact[standard_artifacts.PushedModel],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    act("Third")
    if Path(os.environ[CONTROL], "Third").exists():
        with beam_pipeline as p:
            p | "Rows" >> beam.Create([7]) | "Parse" >> beam.ParDo(RaiseToyError())
    Path(pushed.uri).mkdir(parents=True, exist_ok=True)
    Path(pushed.uri, "whole").write_text(Path(model.uri, "whole").read_text())


def toy_pipeline(root: Path, text: str = "hello") -> tfx.dsl.Pipeline:
    first = First(text=text)
    second = Second(data=first.outputs["data"])
    third = Third(model=second.outputs["model"])
    return tfx.dsl.Pipeline(
        pipeline_name="toy",
        pipeline_root=str(root / "artifacts"),
        components=[first, second, third],
        enable_cache=True,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.sqlite")
        ),
        beam_pipeline_args=["--runner=FnApiRunner"],
    )


def main(root: str) -> None:
    from pipeline.local_runner import run_pipeline

    run_pipeline(toy_pipeline(Path(root)), root)
