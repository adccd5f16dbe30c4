"""The command line, `seesaw` and `python -m pipeline`."""

from __future__ import annotations

import functools
import json
import os
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
    with _opened(root, verbose) as (folder, console):
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)  # all that libraries tell goes to the run's log
            from pipeline import summary
            from pipeline.local_runner import run_pipeline
            from pipeline.pipeline import create_pipeline
            from pipeline.progress import reporter_for

            settings = _load(config, logs, last_day, overrides)
        with console.status("looking at the logs"):
            inputs = _inputs(settings, folder.root)
        training = days_text(inputs.window.first_day, inputs.window.first_eval_day - timedelta(days=1))
        evaluation = days_text(inputs.window.first_eval_day, inputs.window.last_day)
        console.print(f"[bold]{settings.name}[/bold]: training days {training}, evaluation days {evaluation}")
        pipeline = create_pipeline(settings, folder.root, inputs)
        result = run_pipeline(pipeline, folder, reporter_for(console, live=not verbose), use_cache=not no_cache)
        with console.status("reading the results"):
            found = summary.summarise(settings, folder.root, result)
        summary.render(found, console)


@contextmanager
def _opened(root: Path, verbose: bool) -> Iterator[tuple[RunFolder, Console]]:
    """A run in the folder of a root: what libraries print goes to its log, what the console gets is shown.

    Writes the stack of an error beside the log, where the runner has not done so.
    """
    with RunFolder(root) as folder, captured_output(folder.run_log, verbose=verbose) as stream:
        try:
            yield folder, Console(file=stream, highlight=False)
        except Exception as error:
            if not folder.error_file.exists():
                folder.write_error(error)
            raise


def _inputs(settings: Config, root: Path, schema_text: str | None = None) -> RunInputs:
    from components.log_example_gen.forgotten import Forgotten
    from components.log_example_gen.window import inputs_fingerprint, resolve_window
    from pipeline.pipeline import RunInputs, joined_uri, read_schema

    window = resolve_window(settings.logs, settings.attribution, settings.window)
    files = inputs_fingerprint(settings.logs, settings.attribution, window)
    return RunInputs(
        window=window,
        inputs_fingerprint=files + Forgotten.read(joined_uri(root)).digest,
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
    with _opened(root, verbose) as (folder, console):
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
        pipeline = create_pipeline(settings, folder.root, _inputs(settings, folder.root, schema_text=""))
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


@app.command(
    epilog="Example: `seesaw join --config shop.yaml --out analysis/january --last-day 2026-01-31`",
)
@_clean_errors
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
    console = _out()
    with console.status("loading"):
        prepare_process(verbose=verbose)
        from components.log_example_gen.report import summary
        from pipeline.joined_rows import write_joined_rows

        settings = _load(config, logs, last_day, overrides)
    with console.status("joining the logs"):
        report = write_joined_rows(settings, out, "tfrecord" if format_ == "tfrecord" else "parquet", root)
    console.print(summary(json.loads((report / "report.json").read_text())), markup=False, soft_wrap=True)
    say(console, "rows", str(out))
    say(console, "report", str(report))


@app.command(
    epilog="Example: `seesaw compare runs/shop/models/ranker/3 runs/shop/models/ranker/4 --config shop.yaml "
    "--root runs/shop --out comparison`",
)
@_clean_errors
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
    console = _out()
    with console.status("loading TensorFlow and TFX"):
        prepare_process(verbose=verbose)
        from pipeline import compare as comparing

        settings = _load(config, logs, last_day, overrides) if config else None
    if examples is None:
        if settings is None:
            raise UserError("compare: expected --examples with joined examples, or --config with the logs to join")
        with console.status("joining the logs"), RunFolder(root or out) as folder:
            inputs = _inputs(settings, folder.root, schema_text="")
            examples = comparing.join_logs(settings, inputs, folder)
    with console.status("scoring and comparing"):
        found = comparing.compare(baseline, candidate, examples, out, settings, slices=tuple(slices or ()))
    comparing.render(found, out, console)


@app.command(
    epilog="Example: `seesaw forget --root runs/shop --user u-1733 --user u-2201`",
)
@_clean_errors
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
    with _opened(root, verbose) as (folder, console):
        with console.status("taking rows out of the joined days"):
            prepare_process(verbose=True)
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


@app.command(
    epilog="Example: `seesaw sweep --config shop.yaml --out runs/shop-sweep --rows 50000`",
)
@_clean_errors
def sweep(
    config: ConfigOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the sweep. The same folder again goes on with what is left."
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="DIR", help="Folder of the pipeline, whose joined logs are used; OUT/pipeline by default."
        ),
    ] = None,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="In place of `sweep.seeds` of the file.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="In place of `sweep.rows` of the file.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Trainings at a time; one per core by default.")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Train a grid of models and balancers over seeds, and tell which to take, and how sure that is.

    The grid is the section `sweep` of the configuration. Beside it a model of each task alone is trained, and each
    model with static weights that are tuned on the last training day. All are judged on the evaluation days. Nothing
    is put into service.

    Writes OUT/sweep.html and OUT/sweep.json, and a result per training in OUT/trainings: a sweep that was stopped or
    killed goes on where it was. A training that fails is reported, and tried again by the next call.
    """
    with _opened(out, verbose) as (folder, console):
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)
            from pipeline.progress import reporter_for
            from pipeline.sweep import page, screen
            from pipeline.sweep.run import DOCUMENT_FILE, PAGE_FILE, carry_out, prepare

            changes = {"seeds": seeds, "rows": rows}
            given = [f"sweep.{name}={value}" for name, value in changes.items() if value is not None]
            settings = _load(config, logs, last_day, [*(overrides or ()), *given])
        with console.status("looking at the logs"):
            place = (root or folder.root / "pipeline").expanduser().resolve()
            inputs = _inputs(settings, place)
        rows_folder = prepare(settings, inputs, place, folder.root, reporter_for(console, live=not verbose))
        with screen.Teller(console, live=not verbose) as teller:
            number = workers or os.cpu_count() or 1
            found = carry_out(settings, rows_folder, folder.root, workers=number, tell=teller.tell)
        found.write(folder.root / DOCUMENT_FILE)
        written = page.write_page(found, folder.root / PAGE_FILE)
        screen.render(found, written, console)


@app.command(
    epilog="Example: `seesaw monitor --config shop.yaml --root runs/shop --out runs/shop/monitor`",
)
@_clean_errors
def monitor(
    config: ConfigOption,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Folder of the pipeline that put the model into service.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the page and the figures; ROOT/monitor by default."),
    ] = None,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Watch the model in service: how it does on the newest days, against the days by which it was promoted.

    Joins the last days with final labels, scores them with the stable version of the model repository, and holds
    metrics, calibration and the distributions of features against the limits under `monitor`. Nothing is changed in
    the repository.

    Writes OUT/monitor.html and OUT/monitor.json. Ends with exit code 0 where all is fine, 3 where a limit is surely
    passed, and 1 where something could not be done.
    """
    with _opened(root, verbose) as (folder, console):
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)
            from pipeline.monitor import page
            from pipeline.monitor.run import watch
            from pipeline.progress import reporter_for

            settings = _load(config, logs, last_day, overrides)
        place = (out or folder.root / "monitor").expanduser().resolve()
        reporter = reporter_for(console, live=not verbose)
        found = watch(settings, folder, place / "scores", lambda there: _inputs(there, folder.root), reporter)
        found.write(place)
        alarm = page.render(found, page.write_page(found, place), console)
    if alarm:
        raise typer.Exit(ALERT)


@app.command(epilog="Example: `seesaw skew --config shop.yaml --root runs/shop --served served`")
@_clean_errors
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
    with _opened(root, verbose) as (folder, console):
        with console.status("loading TensorFlow and TFX"):
            prepare_process(verbose=True)
            from pipeline.skew import page
            from pipeline.skew.run import measure

            settings = _load(config, logs, None, overrides)
        place = (out or folder.root / "skew").expanduser().resolve()
        with console.status("scoring what was served"):
            found = measure(settings, served.expanduser().resolve(), folder.root)
        found.write(place)
        alarm = page.render(found, page.write_page(found, place), console)
    if alarm:
        raise typer.Exit(ALERT)


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


RepositoryOption = Annotated[
    Path,
    typer.Option(
        "--root", metavar="DIR", exists=True, file_okay=False, help="Folder of a run, or root of a model repository."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Name of the model; needed only where there are several."),
]


def _repository_root(root: Path) -> Path:
    return root / "models" if (root / "models").is_dir() else root


def _model(root: Path, name: str | None) -> str:
    from serving.model_repository import ModelRepository

    there = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    there = [n for n in there if ModelRepository(root, n).versions()]
    if name is None and len(there) == 1:
        return there[0]
    if name not in there:
        raise UserError(f"--model: expected one of the models in {root} ({', '.join(there) or 'none'}), got {name}")
    return name


@app.command(epilog="Example: `seesaw serve --root demo/run`")
@_clean_errors
def serve(
    root: RepositoryOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of gRPC; 0 takes a free one.")] = 8500,
    rest_port: Annotated[int, typer.Option("--rest-port", help="Port of REST; 0 takes a free one.")] = 8501,
    poll: Annotated[
        float, typer.Option(metavar="SECONDS", help="How often to look for new versions and labels.")
    ] = 1.0,
    running: Annotated[int, typer.Option(help="Requests in the model at a time; 0 for one per processor.")] = 0,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; more are answered UNAVAILABLE.")] = 128,
    max_bytes: Annotated[int, typer.Option("--max-bytes", help="Size limit of a request.")] = 64 << 20,
    max_batch_size: Annotated[
        int,
        typer.Option(help="Rows of small requests joined into one call; not of `rank`. 0: none.", metavar="N", min=0),
    ] = 0,
    batch_timeout: Annotated[
        int, typer.Option(help="How long a batch waits to be filled.", metavar="MICROSECONDS", min=0)
    ] = 1000,
    log: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a log of what is served, in the form of an exposure log."),
    ] = None,
    log_timezone: Annotated[str, typer.Option("--log-timezone", help="Of the days in it.")] = "UTC",
    verbose: VerboseOption = False,
) -> None:
    """Serve the models of a run on this machine, as TF Serving would: gRPC, REST, labels, new versions as they come.

    For trials and tests; TF Serving is what production runs.
    """
    import gc
    import logging
    import signal
    import threading

    console = _out()
    with console.status("loading"):
        prepare_process(verbose=verbose)
        from serving.server import Server, ServerOptions

        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(asctime)s %(message)s")
        options = ServerOptions(
            host=host,
            port=port,
            rest_port=rest_port,
            poll_seconds=poll,
            running=running,
            waiting=waiting,
            max_request_bytes=max_bytes,
            max_batch_size=max_batch_size,
            batch_timeout_micros=batch_timeout,
            log=log,
            log_timezone=log_timezone,
        )
        # What is there by now stays, so that no collection has to look at it while requests wait.
        gc.freeze()
        server = Server(_repository_root(root), options)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with server:
        for name, labels in server.manager.serving().items():
            told = ", ".join(f"{label} is version {version}" for label, version in labels.items() if label != "latest")
            say(console, "model", f"{name}: {told or 'version ' + str(labels['latest'])}")
        if not server.manager.serving():
            console.print(f"no model in {root} yet; waiting for the first version")
        say(console, "gRPC", f"{host}:{server.port}")
        say(console, "REST", f"http://{host}:{server.rest_port}/v1/models")
        console.print("This server is for trials and tests: TF Serving is what production runs.")
        over.wait()
        console.print("stopping: requests under way are answered")


@app.command(epilog="Example: `seesaw rollback --root demo/run --reason 'too slow'`")
@_clean_errors
def rollback(
    root: RepositoryOption,
    model: ModelOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "rolled back by hand",
    verbose: VerboseOption = False,
) -> None:
    """Put the version that was in service before back in service.

    The embedded server follows at once, and so does TF Serving where `seesaw models-config --follow` runs beside it.
    """
    prepare_process(verbose=verbose)
    from serving.model_repository import ModelRepository

    repository = ModelRepository(_repository_root(root), _model(_repository_root(root), model))
    out, back = repository.rollback(reason)
    _out().print(f"{repository.model}: version {back} is in service again, version {out} is 'previous'")


@app.command(epilog="Example: `seesaw canary --root demo/run --share 0.05 --reason 'a trial'`")
@_clean_errors
def canary(
    root: RepositoryOption,
    share: Annotated[float, typer.Option(help="Of the traffic, from 0 to 1.")],
    model: ModelOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "set by hand",
    verbose: VerboseOption = False,
) -> None:
    """Say what share of the traffic is to get the candidate.

    TF Serving splits no traffic: clients read this share and ask for the label `candidate`, always the same users
    (`serving.client`, with `canary=CanaryShare(...)`). Another candidate, or its promotion, takes the share back.
    """
    prepare_process(verbose=verbose)
    from serving.model_repository import ModelRepository

    repository = ModelRepository(_repository_root(root), _model(_repository_root(root), model))
    version = repository.set_canary(share, reason)
    _out().print(f"{repository.model}: {share:.4g} of the traffic is to get version {version}, the candidate")


@app.command("models-config", epilog="Example: `seesaw models-config --root demo/run --out models.config`")
@_clean_errors
def models_config(
    root: RepositoryOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="TF Serving's --model_config_file.")],
    model: ModelOption = None,
    base_path: Annotated[
        str | None, typer.Option("--base-path", metavar="DIR", help="The model's folder as TF Serving sees it.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="TF Serving's REST API, which is asked for the versions it has loaded."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on, and write whenever the labels change.")] = False,
    poll: Annotated[float, typer.Option(metavar="SECONDS", help="How often to look.")] = 2.0,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long TF Serving may take to load a version.")
    ] = 600.0,
    verbose: VerboseOption = False,
) -> None:
    """Write TF Serving's configuration of a model: the labelled versions, and the labels.

    Where TF Serving runs (--server), labels move in two steps: it first loads the new versions beside the old ones, and
    the labels move once it says that they are there. Without --server the file is what TF Serving starts with.
    """
    import signal
    import threading
    import time

    prepare_process(verbose=verbose)
    from serving.model_repository import ModelRepository
    from serving.tf_serving import LabelFollower

    console = _out()
    over = threading.Event()
    if follow and server is None:
        raise UserError("--follow: expected --server HOST:PORT, which tells when the new versions are in memory")
    if follow:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: over.set())
    repository = ModelRepository(_repository_root(root), _model(_repository_root(root), model))
    if not follow and not repository.labels():
        raise UserError(f"{repository.path}: expected a version with a label, found none")
    follower = LabelFollower(repository, out, base_path, server)
    last = time.monotonic() + wait
    while not over.is_set():
        config = follower.step()
        if config is not None:
            (entry,) = config.model_config_list.config
            labels = ", ".join(f"{label} is version {number}" for label, number in sorted(entry.version_labels.items()))
            versions = ", ".join(map(str, entry.model_version_policy.specific.versions))
            console.print(f"{out}: version(s) {versions} in memory; {labels}", soft_wrap=True)
        if not follow and follower.arrived:
            return
        if config is None and not follow and time.monotonic() > last:
            raise UserError(
                f"{server}: expected {sorted(set(repository.labels().values()))} of '{repository.model}' in memory "
                f"within {wait:g} s; the labels stay where they are"
            )
        over.wait(poll)


@app.command(epilog="Example: `seesaw prune --root demo/run --keep 3`")
@_clean_errors
def prune(
    root: RepositoryOption,
    model: ModelOption = None,
    keep: Annotated[int, typer.Option(min=0, help="Versions without a label to keep, the newest ones.")] = 5,
    verbose: VerboseOption = False,
) -> None:
    """Remove old versions of a model that have no label."""
    prepare_process(verbose=verbose)
    from serving.model_repository import ModelRepository

    repository = ModelRepository(_repository_root(root), _model(_repository_root(root), model))
    removed = repository.collect_garbage(keep)
    _out().print(f"{repository.model}: removed version(s) {', '.join(map(str, removed)) or 'none'}")


@app.command(epilog="Example: `seesaw loadtest --address 127.0.0.1:8500 --model demo --rate 20 --rate 50`")
@_clean_errors
def loadtest(
    address: Annotated[str, typer.Option(help="The server's gRPC address.")] = "127.0.0.1:8500",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model.")] = "ranker",
    rate: Annotated[list[float] | None, typer.Option(help="Requests per second; may be repeated.")] = None,
    candidates: Annotated[list[int] | None, typer.Option(help="Candidates of a request; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="How long requests arrive, for each rate and number.")] = 10.0,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request counts as failed.")] = 5.0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Plot to write.")] = Path("loadtest.png"),
    verbose: VerboseOption = False,
) -> None:
    """Load a server with `rank` requests of made-up values at given rates, and tell the latencies.

    Requests arrive at random moments that do not depend on the answers, and a latency counts from the moment for which
    the request was scheduled.
    """
    prepare_process(verbose=verbose)
    from serving.client import Client, ClientError
    from serving.load_test import PERCENTILES, load, plot, sender

    console = _out()
    counts = candidates or [100, 300]
    results = []
    with Client(address, model, timeout=timeout, retries=0) as client, _foreseen(ClientError):
        send = sender(client, counts)
        for count in counts:
            send(count)
            for each in rate or [10.0, 50.0]:
                with console.status(f"{each:g} requests per second of {count} candidates"):
                    results.append(load(send, each, count, seconds))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("rate", "candidates", "answered/s", *(f"p{p:g} ms" for p in PERCENTILES), "errors"):
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        times = [f"{r.percentile(p):.1f}" for p in PERCENTILES]
        errors = ", ".join(f"{n} {code}" for code, n in r.errors.items()) or "0"
        table.add_row(f"{r.rate:g}", str(r.candidates), f"{r.answered:.1f}", *times, errors)
    console.print(table)
    plot(results, out)
    say(console, "plot", str(out))


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


@app.command(
    epilog="Example: `seesaw doctor --root runs/shop`",
)
@_clean_errors
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", exists=True, dir_okay=False, help="For its Beam engine."),
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR", help="Folder or bucket that runs write to.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Expect a GPU.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Check whether this machine or image can run the pipeline.

    Looks at the versions of the libraries, the devices that TensorFlow sees, the Beam engine, by a small pipeline on
    it, and whether the root can be written to. Ends with exit code 1 where something does not work.
    """
    console = _out()
    with console.status("loading TensorFlow and TFX"):
        prepare_process(verbose=verbose)
        from pipeline.config import BeamConfig
        from pipeline.doctor import examine

        beam = BeamConfig() if config is None else _load(config, None, None, None).beam
        findings = examine(root, beam.options, gpu=gpu)
    for finding in findings:
        say(console, finding.name, finding.text if finding.works else f"FAILED: {finding.text}")
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)


# At the end, since its commands share the options and the errors' handling above.
from pipeline.kubeflow.cli import app as kubeflow_app  # noqa: E402

app.add_typer(kubeflow_app, name="kubeflow")
