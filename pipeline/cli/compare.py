"""`seesaw compare`: two rankers on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import LastDayOption, LogsOption, SetOption, VerboseOption, read_config, stdout
from pipeline.run_folder import RunFolder


def compare(
    baseline: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="The baseline: folder of a SavedModel, or logged scores as logged:pctr=COLUMN,pcvr=COLUMN.",
        ),
    ],
    candidate: Annotated[str, typer.Argument(metavar="B", help="The candidate, likewise.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for evidence.json and the scores.")],
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of joined examples (TFRecord files).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The pipeline's configuration: its tasks, slices and rules. Needed to join logs.",
        ),
    ] = None,
    logs: LogsOption = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="DIR", help="Folder of the pipeline, whose joined logs are used; OUT by default."
        ),
    ] = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Look at each value of a column; may be repeated."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Compare two rankers on the same rows, with intervals, and tell which should serve.

    Rows come from --examples, or from the evaluation days of the logs that --config and --logs name. Without rules of a
    configuration B must have a better AUC on the last probability of the chain.

    Writes OUT/evidence.json and, for every row, both scores to OUT/scores.
    """
    console = stdout()
    with console.status("loading TensorFlow and TFX"):
        prepare_process(verbose=verbose)
        from pipeline import compare as comparing

        settings = read_config(config, logs, last_day, overrides) if config else None
    if examples is None:
        if settings is None:
            raise UserError("compare: expected --examples with joined examples, or --config with the logs to join")
        with console.status("joining the logs"), RunFolder(root or out) as folder:
            examples = comparing.join_logs(settings, folder)
    with console.status("scoring and comparing"):
        found = comparing.compare(baseline, candidate, examples, out, settings, slices=tuple(slices or ()))
    comparing.render(found, out, console)
