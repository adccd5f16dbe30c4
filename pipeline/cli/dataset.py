"""The commands `seesaw dataset …`: public data sets as logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from pipeline.cli.common import VerboseOption, foreseen, rows_table, stdout
from pipeline.progress import say


def kuairand(
    source: Annotated[
        Path,
        typer.Option(
            "--source", metavar="DIR", exists=True, file_okay=False, help="Folder with the files of the slice."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make; what is current is kept.")],
    verbose: VerboseOption = False,
) -> None:
    """Turn the slice of KuaiRand, the log of a short-video app's own ranking, into exposure, click and purchase logs.

    A click is `is_click`; a purchase is `long_view`, worth the seconds played. The configuration
    for these logs is pipeline/configs/kuairand.yaml.
    """
    prepare_process(verbose=verbose)
    from pipeline.datasets import kuairand as dataset

    console = stdout()
    with foreseen(OSError, ValueError), console.status("converting"):
        facts = dataset.convert(source, out)
    console.print(rows_table(facts["rows"]))
    console.print()
    for name in ("users", "items", "requests"):
        say(console, name, f"{facts[name]:,}")
    say(console, "days", f"{facts['first_day']} to {facts['last_day']}")
    say(console, "logs", str(out))
