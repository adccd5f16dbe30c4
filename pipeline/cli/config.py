"""The commands `seesaw config …`."""

from __future__ import annotations

import json

import typer

from models.runtime import prepare_process
from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, read_config


def schema() -> None:
    """Print the JSON schema of the configuration, from which editors complete and check.

    For VS Code's YAML extension: write it to a file and begin the configuration with
    '# yaml-language-server: $schema=FILE'.
    """
    prepare_process()
    from pipeline.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def show(
    config: ConfigOption,
    logs: LogsOption = None,
    last_day: LastDayOption = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Check a configuration and print it with all defaults written out, as YAML."""
    prepare_process(verbose=verbose)
    import yaml

    settings = read_config(config, logs, last_day, overrides)
    typer.echo(yaml.safe_dump(settings.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True))
