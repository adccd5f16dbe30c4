"""`seesaw check`: what a run would do with the logs, from a sample."""

from __future__ import annotations

from typing import Annotated

import typer

from models.runtime import prepare_process
from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, read_config, stdout


def check(
    config: ConfigOption,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="Rows to read of each log, about.")] = 200_000,
    verbose: VerboseOption = False,
) -> None:
    """Look at a sample of the logs, in seconds, and tell what a run would do with them.

    Which columns were found and how often they have a value, which rows are rejected and why, how many clicks and
    purchases find their exposure, how many examples and labels there would be, and what would be trained on them.

    Ends with exit code 1 where something would stop a run.
    """
    console = stdout()
    with console.status("loading"):
        prepare_process(verbose=verbose)
        from components.log_example_gen.sample import inspect
        from components.log_example_gen.window import resolve_window
        from pipeline import check as checks

        settings = read_config(config, logs, last_day, overrides)
    with console.status("reading a sample of the logs"):
        window = resolve_window(settings.logs, settings.attribution, settings.window)
        found = inspect(settings.logs, settings.attribution, settings.features, window, max_rows=rows)
    checks.render(settings, found, console)
    if found.problems:
        raise typer.Exit(1)
