"""`seesaw join`: labelled rows for analysts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, read_config, stdout
from pipeline.progress import say


def join(
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make; it appears when all is done.")],
    format_: Annotated[
        str, typer.Option("--format", help="What rows are written as: parquet or tfrecord.")
    ] = "parquet",
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Root of runs: users forgotten there are left out here as well."),
    ] = None,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Join the logs of the window into labelled rows, for analysts, and stop there.

    Writes what a run would train on to OUT/Split-train and OUT/Split-eval, and the reconciliation report with the
    rejected rows to OUT/report.
    """
    if format_ not in ("parquet", "tfrecord"):
        raise UserError(f"--format: expected parquet or tfrecord, got '{format_}'")
    console = stdout()
    with console.status("loading"):
        prepare_process(verbose=verbose)
        from components.log_example_gen.report import summary
        from pipeline.joined_rows import write_joined_rows

        settings = read_config(config, logs, last_day, overrides)
    with console.status("joining the logs"):
        report = write_joined_rows(settings, out, "tfrecord" if format_ == "tfrecord" else "parquet", root)
    console.print(summary(json.loads((report / "report.json").read_text())), markup=False, soft_wrap=True)
    say(console, "rows", str(out))
    say(console, "report", str(report))
