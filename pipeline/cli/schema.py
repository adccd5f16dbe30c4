"""`seesaw schema`: a first schema, to look over and keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.section import UserError
from pipeline.cli.common import ConfigOption, LastDayOption, LogsOption, SetOption, VerboseOption, opened, read_config


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
    with opened(root, verbose) as (folder, console, reporter):
        with console.status("loading TensorFlow and TFX"):
            import tensorflow_data_validation as tfdv
            from google.protobuf import text_format

            from components.schema import infer_schema
            from pipeline.local_runner import run_pipeline
            from pipeline.pipeline import create_pipeline, resolve_inputs

            settings = read_config(config, logs, last_day, overrides)
        path = out or Path(settings.validation.schema_path)
        if path.exists() and not force:
            raise UserError(f"{path}: the schema is there already; --force replaces it, --out writes another file")
        pipeline = create_pipeline(settings, folder.root, resolve_inputs(settings, folder.root, schema_text=""))
        steps = ("LogExampleGen", "StatisticsGen")
        result = run_pipeline(pipeline, folder, reporter, only=steps)
        with console.status("inferring the schema"):
            statistics = result.output("StatisticsGen", "statistics") / "Split-train" / "FeatureStats.pb"
            inferred = infer_schema(
                tfdv.load_stats_binary(str(statistics)),
                labels=[task.label for task in settings.tasks],
                features=settings.features,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_format.MessageToString(inferred), encoding="utf-8")
        console.print(f"{len(inferred.feature)} features in {path}: look it over and keep it", soft_wrap=True)
