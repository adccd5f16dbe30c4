"""`seesaw monitor`: the model in service on the newest days."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    ALERT,
    ConfigOption,
    LastDayOption,
    LogsOption,
    SetOption,
    VerboseOption,
    opened,
    read_config,
)


def monitor(
    config: ConfigOption,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Folder of the pipeline that put the model into service.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the page and the figures; ROOT/monitor by default."),
    ] = None,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Watch the model in service: how it does on the newest days, against the days by which it was promoted.

    Joins the last days with final labels, scores them with the stable version of the model repository, and holds
    metrics, calibration and the distributions of features against the limits under `monitor`. Nothing is changed in
    the repository.

    Writes OUT/monitor.html and OUT/monitor.json. Ends with exit code 0 where all is fine, 3 where a limit is surely
    passed, and 1 where something could not be done.
    """
    with opened(root, verbose) as (folder, console, reporter):
        with console.status("loading TensorFlow and TFX"):
            from pipeline.monitor import page
            from pipeline.monitor.run import watch

            settings = read_config(config, logs, last_day, overrides)
        place = (out or folder.root / "monitor").expanduser().resolve()
        found = watch(settings, folder, place / "scores", reporter)
        found.write(place)
        alarm = page.render(found, page.write_page(found, place), console)
    if alarm:
        raise typer.Exit(ALERT)
