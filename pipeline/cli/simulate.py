"""`seesaw simulate`: logs with known probabilities and known dirt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import VerboseOption, foreseen, rows_table, stdout
from pipeline.progress import say


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
    console = stdout()
    with foreseen(OSError), console.status("simulating") as status:
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
    console.print(rows_table({log: sum(counts.values()) for log, counts in kinds.items()}))
    console.print()
    say(console, "clicks", f"{truth['ctr']:.4f} of exposures")
    say(console, "purchases", f"{truth['cvr']:.4f} of clicks")
    best = ", ".join(f"{task} {value:.4f}" for task, value in truth["oracle_auc"].items())
    say(console, "best AUC", f"{best} (of the true probabilities)")
    say(console, "logs", str(out))
    say(console, "truth", str(out / "truth"))
