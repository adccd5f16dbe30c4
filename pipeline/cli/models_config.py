"""`seesaw models-config`: TF Serving's configuration."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import VerboseOption, stdout, stop_signal
from pipeline.cli.repository import ModelOption, RepositoryOption, model_repository


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
    prepare_process(verbose=verbose)
    from serving.tf_serving import LabelFollower

    console = stdout()
    if follow and server is None:
        raise UserError("--follow: expected --server HOST:PORT, which tells when the new versions are in memory")
    over = stop_signal() if follow else threading.Event()
    repository = model_repository(root, model)
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
