"""`seesaw loadtest`: latencies of a server at given rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from models.runtime import prepare_process
from pipeline.cli.common import VerboseOption, foreseen, stdout
from pipeline.progress import say


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
    from serving.load_test import PERCENTILES, load, plot, prepared

    console = stdout()
    counts = candidates or [100, 300]
    results = []
    with Client(address, model, timeout=timeout, retries=0) as client, foreseen(ClientError):
        requests = prepared(client, counts)
        for count in counts:
            next(requests[count]).send()
            for each in rate or [10.0, 50.0]:
                with console.status(f"{each:g} requests per second of {count} candidates"):
                    results.append(load(requests[count], each, count, seconds))
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
