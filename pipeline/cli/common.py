"""What the commands share: options, the console, and how errors are told."""

from __future__ import annotations

import functools
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from models.runtime import prepare_process
from models.section import UserError
from pipeline.progress import Reporter, reporter_for
from pipeline.run_folder import RunFolder, captured_output

if TYPE_CHECKING:
    from pipeline.config import Config

ALERT = 3
"""Exit code of `monitor` and `skew` where a limit is passed; 1 is for errors, and 2 for a wrong command line."""

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", exists=True, dir_okay=False, help="The pipeline's configuration, a YAML file."
    ),
]
LogsOption = Annotated[
    Path | None,
    typer.Option("--logs", metavar="DIR", help="Folder of the logs, in place of `logs.root` of the file."),
]
LastDayOption = Annotated[
    str | None,
    typer.Option(
        "--last-day",
        metavar="YYYY-MM-DD",
        help="Last evaluation day, in place of `window.last_day` of the file.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Another value for a key of the file, in YAML; may be repeated. Example: --set training.epochs=2",
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show what the libraries print, and the stack where something fails."),
]


def stdout() -> Console:
    """The console of results, which do not change colour by what they look like."""
    return Console(highlight=False)


def _fail(error: BaseException, verbose: bool) -> NoReturn:
    console = Console(stderr=True, highlight=False)
    if isinstance(error, KeyboardInterrupt):
        console.print("interrupted; run again to go on with the components that are left", soft_wrap=True)
        raise typer.Exit(130)
    if verbose:
        console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(_text_of(error), markup=False, soft_wrap=True)
    if not isinstance(error, UserError) and not verbose:
        console.print("This error was not foreseen; --verbose shows where it comes from.", soft_wrap=True)
    raise typer.Exit(1)


def _text_of(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def clean_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command with exit code 1 and a message for an error, with 130 for Ctrl-C; a stack only if asked for."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            _fail(error, kwargs.get("verbose", False))

    return wrapper


@contextmanager
def foreseen(*errors: type[Exception]) -> Iterator[None]:
    """Takes errors of these types for the user's: their texts say what is wrong."""
    try:
        yield
    except UserError:
        raise
    except errors as error:
        raise UserError(str(error)) from error


def read_config(config: Path, logs: Path | None, last_day: str | None, overrides: list[str] | None) -> Config:
    """The configuration of a file, with the options that go over it.

    Raises:
      UserError: naming the option or the key that is wrong.
    """
    from pipeline.config import load

    changes = list(overrides or ())
    if last_day is not None:
        try:
            date.fromisoformat(last_day)
        except ValueError:
            raise UserError(f"--last-day: expected a day as YYYY-MM-DD, got '{last_day}'") from None
        changes.append(f"window.last_day={last_day}")
    return load(config, logs=logs, overrides=tuple(changes))


@contextmanager
def opened(root: Path, verbose: bool) -> Iterator[tuple[RunFolder, Console, Reporter]]:
    """A run in the folder of a root: what libraries print goes to its log, what the console gets is shown.

    Writes the stack of an error beside the log, where the runner has not done so.
    """
    with RunFolder(root) as folder, captured_output(folder.run_log, verbose=verbose) as stream:
        try:
            prepare_process(verbose=True)  # all that libraries tell goes to the run's log
            console = Console(file=stream, highlight=False)
            yield folder, console, reporter_for(console, live=not verbose)
        except Exception as error:
            if not folder.error_file.exists():
                folder.write_error(error)
            raise


def stop_signal() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set, from now on, in place of what they do otherwise."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    return over


def rows_table(rows: dict[str, int]) -> Table:
    """How many rows each log has."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("log", no_wrap=True, min_width=16)
    table.add_column("rows", justify="right", no_wrap=True)
    for log, count in rows.items():
        table.add_row(log, f"{count:,}")
    return table
