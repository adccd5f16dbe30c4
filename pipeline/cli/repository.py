"""The commands that change a model repository: `seesaw rollback`, `canary` and `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.runtime import prepare_process
from models.section import UserError
from pipeline.cli.common import VerboseOption, stdout

if TYPE_CHECKING:
    from serving.model_repository import ModelRepository

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


def repository_root(root: Path) -> Path:
    """Root of the model repository: that of a run's folder, or the folder itself."""
    return root / "models" if (root / "models").is_dir() else root


def model_repository(root: Path, name: str | None) -> ModelRepository:
    """The repository of a model that has versions, by its name, or of the only one.

    Raises:
      UserError: if there is no such model, or the name is needed.
    """
    from serving.model_repository import ModelRepository

    root = repository_root(root)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    there = {r.model: r for r in (ModelRepository(root, folder) for folder in folders) if r.versions()}
    if name is None and len(there) == 1:
        (name,) = there
    if not there:
        raise UserError(f"{root}: expected a model with versions, found none; `seesaw run` puts the first one there")
    if name not in there:
        got = "none" if name is None else f"'{name}'"
        raise UserError(f"--model: expected one of the models in {root} ({', '.join(there)}), got {got}")
    return there[name]


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
    repository = model_repository(root, model)
    out, back = repository.rollback(reason)
    stdout().print(f"{repository.model}: version {back} is in service again, version {out} is 'previous'")


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
    repository = model_repository(root, model)
    version = repository.set_canary(share, reason)
    stdout().print(f"{repository.model}: {share:.4g} of the traffic is to get version {version}, the candidate")


def prune(
    root: RepositoryOption,
    model: ModelOption = None,
    keep: Annotated[int, typer.Option(min=0, help="Versions without a label to keep, the newest ones.")] = 5,
    verbose: VerboseOption = False,
) -> None:
    """Remove old versions of a model that have no label."""
    prepare_process(verbose=verbose)
    repository = model_repository(root, model)
    removed = repository.collect_garbage(keep)
    stdout().print(f"{repository.model}: removed version(s) {', '.join(map(str, removed)) or 'none'}")
