"""`seesaw run`: the whole pipeline."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, opened, read_config
from pipeline.progress import days_text


def run(
    config: ConfigOption,
    root: Annotated[
        Path,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Folder of everything that the pipeline writes: artifacts, metadata, models, logs. The same root "
            "again continues from its cache.",
        ),
    ],
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every component, though nothing changed.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the pipeline: join the logs, validate, train, evaluate, and put the ranker in service if it passes the gates.

    A component whose inputs, parameters and code did not change is served from the cache. So a run that failed or was
    killed goes on where it stopped: run it again. Only one run uses a root at a time.

    What the libraries print goes to ROOT/logs/RUN/run.log, the traceback of a failure to error.txt beside it.
    """
    with opened(root, verbose) as (folder, console, reporter):
        with console.status("loading TensorFlow and TFX"):
            from pipeline import summary
            from pipeline.local_runner import run_pipeline
            from pipeline.pipeline import create_pipeline, resolve_inputs

            settings = read_config(config, logs, last_day, overrides)
        with console.status("looking at the logs"):
            inputs = resolve_inputs(settings, folder.root)
        training = days_text(inputs.window.first_day, inputs.window.first_eval_day - timedelta(days=1))
        evaluation = days_text(inputs.window.first_eval_day, inputs.window.last_day)
        console.print(f"[bold]{settings.name}[/bold]: training days {training}, evaluation days {evaluation}")
        pipeline = create_pipeline(settings, folder.root, inputs)
        result = run_pipeline(pipeline, folder, reporter, use_cache=not no_cache)
        with console.status("reading the results"):
            found = summary.summarise(settings, folder.root, result)
        summary.render(found, console)
