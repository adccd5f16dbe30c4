"""The command line, `seesaw` and `python -m pipeline`: one file per command, or per group of commands.

A command is a function with its options; the docstring is its help. TensorFlow and TFX take seconds to import: what
needs them is imported inside the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from pipeline.cli import (
    check,
    compare,
    config,
    dataset,
    doctor,
    forget,
    join,
    kubeflow,
    loadtest,
    models_config,
    monitor,
    repository,
    run,
    schema,
    serve,
    simulate,
    skew,
    sweep,
)
from pipeline.cli.common import clean_errors


def _group(help: str, commands: dict[Callable[..., None], str], **settings: Any) -> typer.Typer:
    """A group of commands, by the names of their functions, each with an example, or '' where it needs none."""
    group = typer.Typer(no_args_is_help=True, help=help, **settings)
    for command, example in commands.items():
        group.command(epilog=f"Example: `seesaw {example}`" if example else None)(clean_errors(command))
    return group


app = _group(
    "From raw exposure, click and purchase logs to a ranker in service, trained, judged and promoted.",
    {
        run.run: "run --config shop.yaml --root runs/shop --last-day 2026-01-31",
        check.check: "check --config shop.yaml --rows 50000",
        schema.schema: "schema --config shop.yaml --root runs/shop",
        join.join: "join --config shop.yaml --out analysis/january --last-day 2026-01-31",
        compare.compare: "compare runs/shop/models/ranker/3 runs/shop/models/ranker/4 --config shop.yaml "
        "--root runs/shop --out comparison",
        forget.forget: "forget --root runs/shop --user u-1733 --user u-2201",
        sweep.sweep: "sweep --config shop.yaml --out runs/shop-sweep --rows 50000",
        monitor.monitor: "monitor --config shop.yaml --root runs/shop --out runs/shop/monitor",
        skew.skew: "skew --config shop.yaml --root runs/shop --served served",
        simulate.simulate: "simulate --out demo/logs --days 8 --exposures-per-day 20000",
        serve.serve: "serve --root demo/run",
        repository.rollback: "rollback --root demo/run --reason 'too slow'",
        repository.canary: "canary --root demo/run --share 0.05 --reason 'a trial'",
        models_config.models_config: "models-config --root demo/run --out models.config",
        repository.prune: "prune --root demo/run --keep 3",
        loadtest.loadtest: "loadtest --address 127.0.0.1:8500 --model demo --rate 20 --rate 50",
        doctor.doctor: "doctor --root runs/shop",
    },
    name="seesaw",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try it: `seesaw simulate --out demo/logs`, then "
    "`seesaw run --config pipeline/configs/demo.yaml --logs demo/logs --root demo/run`",
)
app.add_typer(
    _group(
        "Look at a configuration.",
        {config.schema: "", config.show: "config show --config shop.yaml --set training.epochs=2"},
    ),
    name="config",
)
app.add_typer(
    _group(
        "Turn public data sets into logs.",
        {dataset.kuairand: "dataset kuairand --source data/kuairand --out logs/kuairand"},
    ),
    name="dataset",
)
app.add_typer(
    _group(
        "The same pipeline on Kubeflow: compile, run, schedule.",
        {
            kubeflow.compile: "kubeflow compile --config shop.yaml --image shop:1 --out pipeline.yaml",
            kubeflow.submit: "kubeflow submit --config shop.yaml --param last_day=2026-01-31",
            kubeflow.schedule: "kubeflow schedule --config shop.yaml --dry-run",
            kubeflow.runs: "kubeflow runs --config shop.yaml",
            kubeflow.backfill: "kubeflow backfill --config shop.yaml --from 2026-01-10 --to 2026-01-20",
        },
    ),
    name="kubeflow",
)


def main() -> None:
    """Entry point of the console script."""
    app()
