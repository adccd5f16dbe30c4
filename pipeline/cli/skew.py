"""`seesaw skew`: what was served against what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import ALERT, ConfigOption, LogsOption, SetOption, VerboseOption, opened, read_config


def skew(
    config: ConfigOption,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Folder of the pipeline whose model repository served.")
    ],
    served: Annotated[
        Path,
        typer.Option(
            "--served", metavar="DIR", exists=True, file_okay=False, help="Folder of the log of what was served."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the page and the figures; ROOT/skew by default."),
    ] = None,
    logs: LogsOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Compare what was served with what training reads of the same rows: the features, and the scores.

    Rows of the log of what was served (`seesaw serve --log`, or the client's) are looked up among the exposures by
    request and item, and scored again with the version that served them.

    Writes OUT/skew.html and OUT/skew.json. Ends with exit code 0 where all is the same, 3 where more rows differ than
    `skew.rows` allows, and 1 where something could not be done.
    """
    with opened(root, verbose) as (folder, console, _):
        with console.status("loading TensorFlow and TFX"):
            from pipeline.skew import page
            from pipeline.skew.run import measure

            settings = read_config(config, logs, None, overrides)
        place = (out or folder.root / "skew").expanduser().resolve()
        with console.status("scoring what was served"):
            found = measure(settings, served.expanduser().resolve(), folder.root)
        found.write(place)
        alarm = page.render(found, page.write_page(found, place), console)
    if alarm:
        raise typer.Exit(ALERT)
