"""`seesaw forget`: deletion requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.section import UserError
from pipeline.cli.common import VerboseOption, opened
from pipeline.progress import say


def forget(
    root: Annotated[
        Path,
        typer.Option("--root", metavar="DIR", exists=True, file_okay=False, help="Folder of the pipeline's files."),
    ],
    users: Annotated[
        list[str] | None, typer.Option("--user", metavar="ID", help="User to forget; may be repeated.")
    ] = None,
    users_file: Annotated[
        Path | None,
        typer.Option("--users-file", metavar="FILE", exists=True, dir_okay=False, help="File with an id in each line."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Take users' rows out of the joined days, for deletion requests.

    Their examples go from all joined days under the root, and so do the rejected rows kept there in which their ids
    stand. The ids stay, hashed, on a list: later joins leave their rows out, even if the logs still have them. The logs
    themselves, and what past runs made of the rows, are not touched: the command lists what holds them.
    """
    ids = [line.strip() for line in users_file.read_text(encoding="utf-8").splitlines()] if users_file else []
    ids = sorted({*(users or ()), *ids} - {""})
    if not ids:
        raise UserError("expected a user to forget: --user ID or --users-file FILE")
    with opened(root, verbose) as (folder, console, _):
        with console.status("taking rows out of the joined days"):
            from components.log_example_gen.forgetting import forget as forget_users
            from components.log_example_gen.forgotten import Forgotten
            from pipeline.lineage import holders
            from pipeline.pipeline import joined_uri

            removed = forget_users(joined_uri(folder.root), ids)
            left = holders(folder.root, Forgotten.read(joined_uri(folder.root)))
        total = sum(removed.examples.values())
        console.print(f"{len(ids)} users forgotten: {total:,} examples of {len(removed.examples)} joined days removed")
        for day, count in removed.examples.items():
            say(console, str(day), f"{count:,}")
        if removed.rejected:
            say(console, "rejected rows", f"{removed.rejected:,}")
        if left:
            console.print("What past runs made still holds rows of forgotten users, or was made from them:")
            for holder in left:
                rows = "" if holder.rows is None else f" ({holder.rows:,} rows)"
                console.print(f"  {holder.kind}: {holder.uri}{rows}", markup=False, soft_wrap=True)
        console.print("The logs are as they were: delete the rows there too.")
