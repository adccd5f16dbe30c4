"""`seesaw sweep`: a grid of models and balancers over seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, opened, read_config


def sweep(
    config: ConfigOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the sweep. The same folder again goes on with what is left."
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="DIR", help="Folder of the pipeline, whose joined logs are used; OUT/pipeline by default."
        ),
    ] = None,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="In place of `sweep.seeds` of the file.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="In place of `sweep.rows` of the file.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Trainings at a time; one per core by default.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Train a grid of models and balancers over seeds, and tell which to take, and how sure that is.

    The grid is the section `sweep` of the configuration. Beside it a model of each task alone is trained, and each
    model with static weights that are tuned on the last training day. All are judged on the evaluation days. Nothing
    is put into service.

    Writes OUT/sweep.html and OUT/sweep.json, and a result per training in OUT/trainings: a sweep that was stopped or
    killed goes on where it was. A training that fails is reported, and tried again by the next call.
    """
    with opened(out, verbose) as (folder, console, reporter):
        with console.status("loading TensorFlow and TFX"):
            from pipeline.pipeline import resolve_inputs
            from pipeline.sweep import page, screen
            from pipeline.sweep.run import DOCUMENT_FILE, PAGE_FILE, carry_out, prepare

            changes = {"seeds": seeds, "rows": rows}
            given = [f"sweep.{name}={value}" for name, value in changes.items() if value is not None]
            settings = read_config(config, logs, last_day, [*(overrides or ()), *given])
        with console.status("looking at the logs"):
            place = (root or folder.root / "pipeline").expanduser().resolve()
            inputs = resolve_inputs(settings, place)
        rows_folder = prepare(settings, inputs, place, folder.root, reporter)
        with screen.Teller(console, live=not verbose) as teller:
            number = workers or os.cpu_count() or 1
            found = carry_out(settings, rows_folder, folder.root, workers=number, tell=teller.tell)
        found.write(folder.root / DOCUMENT_FILE)
        written = page.write_page(found, folder.root / PAGE_FILE)
        screen.render(found, written, console)
