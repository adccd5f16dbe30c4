"""The command line, `seesaw` and `python -m pipeline`."""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from models.runtime import prepare_process
from models.section import UserError
from pipeline.progress import days_text, say
from pipeline.run_folder import RunFolder, captured_output

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.pipeline import RunInputs

# TensorFlow and TFX take seconds to import: what needs them is imported inside the commands.

app = typer.Typer(
    name="seesaw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From raw exposure, click and purchase logs to a ranker in service, trained, judged and promoted.",
    epilog="Try it: `seesaw simulate --out demo/logs`, then "
    "`seesaw run --config pipeline/configs/demo.yaml --logs demo/logs --root demo/run`",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at a configuration.")
dataset_app = typer.Typer(no_args_is_help=True, help="Turn public data sets into logs.")
app.add_typer(config_app, name="config")
app.add_typer(dataset_app, name="dataset")

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


def main() -> None:
    """Entry point of the console script."""
    app()


def _out() -> Console:
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


def _clean_errors(command: Callable[..., None]) -> Callable[..., None]:
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
def _foreseen(*errors: type[Exception]) -> Iterator[None]:
    """Takes errors of these types for the user's: their texts say what is wrong."""
    try:
        yield
    except UserError:
        raise
    except errors as error:
        raise UserError(str(error)) from error


def _load(config: Path, logs: Path | None, last_day: str | None, overrides: list[str] | None) -> Config:
    from pipeline.config import load

    changes = list(overrides or ())
    if last_day is not None:
        try:
            date.fromisoformat(last_day)
        except ValueError:
            raise UserError(f"--last-day: expected a day as YYYY-MM-DD, got '{last_day}'") from None
        changes.append(f"window.last_day={last_day}")
    return load(config, logs=logs, overrides=tuple(changes))


@app.command(
    epilog="Example: `seesaw run --config shop.yaml --root runs/shop --last-day 2026-01-31`",
)
@_clean_errors
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
    with (
        RunFolder(root) as folder,
        captured_output(folder.run_log, verbose=verbose) as stream,
        _error_kept(folder),
    ):
        console = Console(file=stream, highlight=False)
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)  # all that libraries tell goes to the run's log
            from pipeline import summary
            from pipeline.local_runner import run_pipeline
            from pipeline.pipeline import create_pipeline
            from pipeline.progress import reporter_for

            settings = _load(config, logs, last_day, overrides)
        with console.status("looking at the logs"):
            inputs = _inputs(settings)
        training = days_text(inputs.window.first_day, inputs.window.first_eval_day - timedelta(days=1))
        evaluation = days_text(inputs.window.first_eval_day, inputs.window.last_day)
        console.print(f"[bold]{settings.name}[/bold]: training days {training}, evaluation days {evaluation}")
        pipeline = create_pipeline(settings, folder.root, inputs)
        result = run_pipeline(pipeline, folder, reporter_for(console, live=not verbose), use_cache=not no_cache)
        with console.status("reading the results"):
            found = summary.summarise(settings, folder.root, result)
        summary.render(found, console)


@contextmanager
def _error_kept(folder: RunFolder) -> Iterator[None]:
    """Writes the stack of an error beside the run's log, where the runner has not done so."""
    try:
        yield
    except Exception as error:
        if not folder.error_file.exists():
            folder.write_error(error)
        raise


def _inputs(settings: Config, schema_text: str | None = None) -> RunInputs:
    from components.log_example_gen.window import inputs_fingerprint, resolve_window
    from pipeline.pipeline import RunInputs, read_schema

    window = resolve_window(settings.logs, settings.attribution, settings.window)
    return RunInputs(
        window=window,
        inputs_fingerprint=inputs_fingerprint(settings.logs, settings.attribution, window),
        schema_text=read_schema(settings) if schema_text is None else schema_text,
    )


@app.command(
    epilog="Example: `seesaw check --config shop.yaml --rows 50000`",
)
@_clean_errors
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
    console = _out()
    with console.status("loading"):
        prepare_process(verbose=verbose)
        from components.log_example_gen.sample import inspect
        from components.log_example_gen.window import resolve_window
        from pipeline import check as checks

        settings = _load(config, logs, last_day, overrides)
    with console.status("reading a sample of the logs"):
        window = resolve_window(settings.logs, settings.attribution, settings.window)
        found = inspect(settings.logs, settings.attribution, settings.features, window, max_rows=rows)
    checks.render(settings, found, console)
    if found.problems:
        raise typer.Exit(1)


@app.command(
    epilog="Example: `seesaw schema --config shop.yaml --root runs/shop`",
)
@_clean_errors
def schema(
    config: ConfigOption,
    root: Annotated[
        Path,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Folder of the pipeline's files; a later `run` there finds the logs joined already.",
        ),
    ],
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write; `validation.schema` by default."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Infer a schema from the training days, once, for you to look over and keep.

    Joins the logs and takes their statistics as `run` does. The schema says which features there are, of
    which type, how often they may be missing and which values they take; a run stops where the data contradict it. Edit
    the file where it says too much or too little.
    """
    with (
        RunFolder(root) as folder,
        captured_output(folder.run_log, verbose=verbose) as stream,
        _error_kept(folder),
    ):
        console = Console(file=stream, highlight=False)
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)
            import tensorflow_data_validation as tfdv
            from google.protobuf import text_format

            from components.schema import infer_schema
            from models.features import IdFeature, IdListFeature
            from pipeline.local_runner import run_pipeline
            from pipeline.pipeline import create_pipeline
            from pipeline.progress import reporter_for

            settings = _load(config, logs, last_day, overrides)
        path = out or Path(settings.validation.schema_path)
        if path.exists() and not force:
            raise UserError(f"{path}: the schema is there already; --force replaces it, --out writes another file")
        pipeline = create_pipeline(settings, folder.root, _inputs(settings, schema_text=""))
        steps = ("LogExampleGen", "StatisticsGen")
        result = run_pipeline(pipeline, folder, reporter_for(console, live=not verbose), only=steps)
        with console.status("inferring the schema"):
            statistics = result.output("StatisticsGen", "statistics") / "Split-train" / "FeatureStats.pb"
            inferred = infer_schema(
                tfdv.load_stats_binary(str(statistics)),
                labels=[task.label for task in settings.tasks],
                # Who says how to treat unknown ids expects some.
                open_ended=[
                    f.name
                    for f in settings.features
                    if isinstance(f, (IdFeature, IdListFeature)) and (f.vocabulary or f.hash_buckets or f.shares)
                ],
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_format.MessageToString(inferred), encoding="utf-8")
        console.print(f"{len(inferred.feature)} features in {path}: look it over and keep it", soft_wrap=True)


@config_app.command("schema")
@_clean_errors
def config_schema() -> None:
    """Print the JSON schema of the configuration, from which editors complete and check.

    For VS Code's YAML extension: write it to a file and begin the configuration with
    '# yaml-language-server: $schema=FILE'.
    """
    prepare_process()
    from pipeline.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@config_app.command("show", epilog="Example: `seesaw config show --config shop.yaml --set training.epochs=2`")
@_clean_errors
def config_show(
    config: ConfigOption,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Check a configuration and print it with all defaults written out, as YAML."""
    prepare_process(verbose=verbose)
    import yaml

    settings = _load(config, logs, last_day, overrides)
    typer.echo(yaml.safe_dump(settings.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True))


@app.command(
    epilog="Example: `seesaw simulate --out demo/logs --days 8 --exposures-per-day 20000`",
)
@_clean_errors
def simulate(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder to make; earlier simulated logs there are replaced."),
    ],
    seed: Annotated[int, typer.Option(help="The same seed and options give the same rows.")] = 0,
    users: Annotated[int, typer.Option(help="Users in the world.")] = 5000,
    items: Annotated[int, typer.Option(help="Items in the world.")] = 2000,
    categories: Annotated[int, typer.Option(help="Categories of items.")] = 24,
    exposures_per_day: Annotated[int, typer.Option(help="Clean exposures of each day.")] = 20_000,
    first_day: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="First day of the logs.")] = "2026-01-01",
    days: Annotated[int, typer.Option(help="Number of days.")] = 8,
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="IANA zone in which a day begins and ends.")] = "UTC",
    format_: Annotated[str, typer.Option("--format", help="Format of the logs: parquet, csv or jsonl.")] = "parquet",
    rows_per_file: Annotated[int, typer.Option(help="A day's log is cut into files of this many rows.")] = 250_000,
    ctr: Annotated[float, typer.Option(help="Clicks per exposure.")] = 0.07,
    cvr: Annotated[float, typer.Option(help="Purchases per click.")] = 0.07,
    task_correlation: Annotated[
        float, typer.Option(help="How far what makes a user click makes the user buy as well, from -1 to 1.")
    ] = 0.5,
    click_window: Annotated[str, typer.Option(metavar="TIME", help="A click after this does not count.")] = "30m",
    purchase_window: Annotated[
        str, typer.Option(metavar="TIME", help="A purchase later than this after its click does not count.")
    ] = "3d",
    clock_skew: Annotated[
        str, typer.Option(metavar="TIME", help="An event may precede its cause by this much and still counts.")
    ] = "0s",
    clean: Annotated[bool, typer.Option("--clean", help="Write logs without any dirt.")] = False,
    dirt: Annotated[
        list[str] | None,
        typer.Option(
            "--dirt",
            metavar="KIND=SHARE",
            help="Share of one kind of dirt; may be repeated. Kinds: duplicate_exposures, duplicate_events, "
            "repeated_clicks, clicks_after_window, purchases_after_window, clicks_without_exposure, "
            "purchases_without_click, clicks_before_exposure, purchases_before_click, malformed, missing_column, "
            "missing_feature, late. Example: --dirt late=0.05",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Simulate the logs of a shop, with known click and purchase probabilities and known amounts of dirt.

    Writes OUT/exposures, OUT/clicks and OUT/purchases with a folder per day, and OUT/truth: the true probabilities,
    what each row is, the best AUC that any model can reach, and the outcome of every row when the logs are joined.
    Logs of the same options that are there already are kept.

    Times are such as 90s, 30m, 12h or 3d.
    """
    prepare_process(verbose=verbose)
    from pydantic import ValidationError

    from pipeline import simulator

    options = {
        "seed": seed,
        "users": users,
        "items": items,
        "categories": categories,
        "exposures_per_day": exposures_per_day,
        "first_day": first_day,
        "days": days,
        "timezone": timezone,
        "format": format_,
        "rows_per_file": rows_per_file,
        "ctr": ctr,
        "cvr": cvr,
        "task_correlation": task_correlation,
        "click_window": click_window,
        "purchase_window": purchase_window,
        "clock_skew": clock_skew,
        "dirt": {**(simulator.CLEAN.model_dump() if clean else {}), **_shares(dirt or [])},
    }
    try:
        settings = simulator.SimulationConfig.model_validate_json(json.dumps(options))
    except ValidationError as error:
        mistakes = [
            f"--{_option(e['loc'])}: {e['msg'].replace('Input should be', 'expected')}, got {e['input']!r}"
            for e in error.errors(include_url=False)
        ]
        raise UserError("\n".join(mistakes)) from None
    console = _out()
    with _foreseen(OSError), console.status("simulating") as status:
        truth = simulator.simulate(
            settings, out, lambda done, total: status.update(f"simulating: {done} of {total} days")
        )
    _print_simulated(truth, out, console)


def _option(location: tuple[int | str, ...]) -> str:
    """Name of the option that a field of SimulationConfig comes from: 'ctr', or 'dirt late' for one of the dirt's."""
    name, *kind = map(str, location)
    return " ".join([name.replace("_", "-"), *kind])


def _shares(dirt: list[str]) -> dict[str, float]:
    shares = {}
    for setting in dirt:
        kind, _, share = setting.partition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise UserError(f"--dirt {setting}: expected KIND=SHARE such as late=0.05") from None
    return shares


def _print_simulated(truth: dict[str, Any], out: Path, console: Console) -> None:
    # Rows that are late or lack the column 'device' are of some other kind as well.
    kinds = {log: {k: n for k, n in c.items() if k not in ("late", "no_device")} for log, c in truth["rows"].items()}
    console.print(_rows_table({log: sum(counts.values()) for log, counts in kinds.items()}))
    console.print()
    say(console, "clicks", f"{truth['ctr']:.4f} of exposures")
    say(console, "purchases", f"{truth['cvr']:.4f} of clicks")
    best = ", ".join(f"{task} {value:.4f}" for task, value in truth["oracle_auc"].items())
    say(console, "best AUC", f"{best} (of the true probabilities)")
    say(console, "logs", str(out))
    say(console, "truth", str(out / "truth"))


def _rows_table(rows: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("log", no_wrap=True, min_width=16)
    table.add_column("rows", justify="right", no_wrap=True)
    for log, count in rows.items():
        table.add_row(log, f"{count:,}")
    return table


@dataset_app.command(
    epilog="Example: `seesaw dataset kuairand --source data/kuairand --out logs/kuairand`",
)
@_clean_errors
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

    console = _out()
    with _foreseen(OSError, ValueError), console.status("converting"):
        facts = dataset.convert(source, out)
    console.print(_rows_table(facts["rows"]))
    console.print()
    for name in ("users", "items", "requests"):
        say(console, name, f"{facts[name]:,}")
    say(console, "days", f"{facts['first_day']} to {facts['last_day']}")
    say(console, "logs", str(out))
