"""`seesaw serve`: the embedded server."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from pipeline.cli.common import VerboseOption, stdout, stop_signal
from pipeline.cli.repository import RepositoryOption, repository_root
from pipeline.progress import say


def serve(
    root: RepositoryOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of gRPC; 0 takes a free one.")] = 8500,
    rest_port: Annotated[int, typer.Option("--rest-port", help="Port of REST; 0 takes a free one.")] = 8501,
    poll: Annotated[
        float, typer.Option(metavar="SECONDS", help="How often to look for new versions and labels.")
    ] = 1.0,
    running: Annotated[int, typer.Option(help="Requests in the model at a time; 0 for processors + 1.")] = 0,
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
    console = stdout()
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
        server = Server(repository_root(root), options)
    over = stop_signal()
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
