"""`seesaw doctor`: whether this machine or image can run the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from pipeline.cli.common import VerboseOption, read_config, stdout
from pipeline.progress import say


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", exists=True, dir_okay=False, help="For its Beam engine."),
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR", help="Folder or bucket that runs write to.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Expect a GPU.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Check whether this machine or image can run the pipeline.

    Looks at the versions of the libraries, the devices that TensorFlow sees, the Beam engine, by a small pipeline on
    it, and whether the root can be written to. Ends with exit code 1 where something does not work.
    """
    console = stdout()
    with console.status("loading TensorFlow and TFX"):
        prepare_process(verbose=verbose)
        from pipeline.config import BeamConfig
        from pipeline.doctor import examine

        beam = BeamConfig() if config is None else read_config(config, None, None, None).beam
        findings = examine(root, beam.options, gpu=gpu)
    for finding in findings:
        say(console, finding.name, finding.text if finding.works else f"FAILED: {finding.text}")
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)
