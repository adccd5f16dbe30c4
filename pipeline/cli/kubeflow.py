"""The commands `seesaw kubeflow …`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Table

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import ConfigOption, LogsOption, SetOption, VerboseOption, read_config, stdout

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.kubeflow.compiler import Compiled
    from pipeline.kubeflow.service import Service

ImageOption = Annotated[
    str | None, typer.Option("--image", metavar="IMAGE", help="Image, in place of `kubeflow.image` of the file.")
]
HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="URL", help="Address of the API, in place of `kubeflow.host` of the file."),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Another value for a runtime parameter, in YAML; may be repeated. Example: --param epochs=2",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the requests that would change something, and do not send them. Without an address of the API: "
        "those to an installation in which there is nothing yet.",
    ),
]


def compile(
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    image: ImageOption = None,
    logs: LogsOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Write the pipeline as the YAML that Kubeflow Pipelines takes."""
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out: expected a file name that ends with .yaml, got '{out}'")
    console = stdout()
    with console.status("compiling"):
        compiled = _compiled(_settings(config, logs, overrides, verbose), image)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(compiled.text, encoding="utf-8")
    tasks = compiled.spec["root"]["dag"]["tasks"]
    console.print(f"{out}: version {compiled.version}, {len(tasks)} components", markup=False, soft_wrap=True)
    for name, default in compiled.parameters.items():
        console.print(f"  {name}: {default}", markup=False, soft_wrap=True)


def submit(
    config: ConfigOption,
    params: ParamOption = None,
    image: ImageOption = None,
    host: HostOption = None,
    logs: LogsOption = None,
    overrides: SetOption = None,
    again: Annotated[bool, typer.Option("--again", help="Start it, though the same run is there already.")] = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Upload the pipeline if it is new, and start a run.

    A run of the same pipeline with the same parameters that is under way is not started again; nor is one on given days
    that has succeeded.
    """
    settings, compiled = _prepared(config, image, host, logs, overrides, verbose)
    with _service(settings, dry_run) as service:
        service.submit(compiled, _parameters(params), again=again)


def schedule(
    config: ConfigOption,
    image: ImageOption = None,
    host: HostOption = None,
    logs: LogsOption = None,
    overrides: SetOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="End the schedule instead.")] = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Have the pipeline run by `kubeflow.schedule`, without catching up what was missed.

    A schedule that is there is kept where nothing changed, and replaced otherwise.
    """
    settings, compiled = _prepared(config, image, host, logs, overrides, verbose)
    with _service(settings, dry_run) as service:
        if delete:
            service.unschedule()
        else:
            service.schedule(compiled)


def runs(
    config: ConfigOption,
    host: HostOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """List the runs, newest first."""
    settings = _with_host(_settings(config, None, overrides, verbose), host)
    with _service(settings, dry_run=False) as service:
        rows = service.runs()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("run", "state", "first day", "last day", "created", "id"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.state.lower(), row.first_day, row.last_day, row.created[:19], row.run_id)
    stdout().print(table)


def backfill(
    config: ConfigOption,
    first: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="Last day of the first window.")],
    last: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the last window.")],
    params: ParamOption = None,
    image: ImageOption = None,
    host: HostOption = None,
    logs: LogsOption = None,
    overrides: SetOption = None,
    poll: Annotated[float, typer.Option("--poll", metavar="SECONDS", min=0.1, help="Between looks at a run.")] = 30.0,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the windows that end on each of some days, one after the other, oldest first.

    Windows that have succeeded with this pipeline and these parameters are left out. It ends at the first that fails.
    """
    days = [_day("--from", first), _day("--to", last)]
    settings, compiled = _prepared(config, image, host, logs, overrides, verbose)
    with _service(settings, dry_run) as service:
        service.backfill(compiled, _parameters(params), days[0], days[1], poll=poll, wait=not dry_run)


def _settings(config: Path, logs: Path | None, overrides: list[str] | None, verbose: bool) -> Config:
    prepare_process(verbose=verbose)
    return read_config(config, logs, None, overrides)


def _with_host(settings: Config, host: str | None) -> Config:
    if host is None:
        return settings
    return settings.model_copy(update={"kubeflow": settings.kubeflow.model_copy(update={"host": host})})


def _prepared(
    config: Path, image: str | None, host: str | None, logs: Path | None, overrides: list[str] | None, verbose: bool
) -> tuple[Config, Compiled]:
    with stdout().status("compiling"):
        settings = _with_host(_settings(config, logs, overrides, verbose), host)
        return settings, _compiled(settings, image)


def _compiled(settings: Config, image: str | None) -> Compiled:
    try:
        from pipeline.kubeflow.compiler import compile_pipeline
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "kfp":
            raise
        raise UserError(
            "kfp is missing: install Seesaw with its extra 'kubeflow' (pip install 'seesaw[kubeflow]')"
        ) from None
    return compile_pipeline(settings, image)


@contextlib.contextmanager
def _service(settings: Config, dry_run: bool) -> Iterator[Service]:
    from pipeline.kubeflow import service

    console = stdout()

    def echo(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    empty = dry_run and not settings.kubeflow.host
    if empty:
        echo("# No kubeflow.host is given: the requests to an installation in which there is nothing yet.")
    else:
        service.check_host(settings.kubeflow.host)
    with service.dry_run(echo, empty=empty) if dry_run else contextlib.nullcontext():
        # In a dry run the requests tell what would be done.
        yield service.Service(settings.name, settings.kubeflow, (lambda text: None) if dry_run else echo)


def _parameters(given: list[str] | None) -> dict[str, Any]:
    parameters = {}
    for setting in given or ():
        name, separator, value = setting.partition("=")
        if not separator:
            raise UserError(f"--param {setting}: expected NAME=VALUE such as epochs=2")
        parsed = yaml.safe_load(value)
        parameters[name] = parsed.isoformat() if isinstance(parsed, date) else parsed
    return parameters


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option}: expected a day as YYYY-MM-DD, got '{text}'") from None
