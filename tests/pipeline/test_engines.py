"""Flags of Beam's engines: those that README.md shows are flags of Beam, and reach every component that runs on it."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from apache_beam.options import pipeline_options as beam_options
from tfx.dsl.compiler import compiler
from tfx.orchestration.local import runner_utils

from components.log_example_gen.config import Window
from pipeline.config import load
from pipeline.pipeline import RunInputs, create_pipeline

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "pipeline" / "configs" / "demo.yaml"
BLOCKS = re.findall(r"^```yaml\n(beam:.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SHOWN = [tuple(yaml.safe_load(block)["beam"]["options"]) for block in BLOCKS]
ON_BEAM = {"LogExampleGen", "StatisticsGen", "Transform", "Evaluator", "OfflineABTest"}
WINDOW = Window(
    first_day=date(2026, 1, 1),
    first_eval_day=date(2026, 1, 3),
    last_day=date(2026, 1, 3),
    data_end_ms=1_767_600_000_000,
)


def flags_of_components(tmp_path, options: tuple[str, ...]) -> dict[str, list[str]]:
    """Flags of Beam by component, as they stand in the compiled pipeline."""
    config = load(DEMO, overrides=(f"beam.options={yaml.safe_dump(list(options), default_flow_style=True)}",))
    pipeline = create_pipeline(config, tmp_path, RunInputs(WINDOW, inputs_fingerprint="", schema_text=""))
    specs = runner_utils.extract_local_deployment_config(compiler.Compiler().compile(pipeline)).executor_specs
    return {
        name: list(spec.beam_executable_spec.beam_pipeline_args)
        for name, spec in specs.items()
        if spec.WhichOneof("spec") == "beam_executable_spec"
    }


def test_the_readme_shows_every_engine():
    runners = {beam_options.PipelineOptions(list(o)).view_as(beam_options.StandardOptions).runner for o in SHOWN}
    assert runners == {"FnApiRunner", "FlinkRunner", "PortableRunner", "DataflowRunner", "SparkRunner"}


@pytest.mark.parametrize("options", SHOWN, ids=lambda options: options[0])
def test_flags_reach_every_component_on_beam(tmp_path, options):
    found = flags_of_components(tmp_path, options)
    assert set(found) == ON_BEAM
    for name, flags in found.items():
        assert [flag for flag in flags if flag in options] == list(options), name
        # An image that TFX needs for nothing but its being named gives way to one that is given.
        image = beam_options.PipelineOptions(flags).view_as(beam_options.WorkerOptions).sdk_container_image
        given = [o.split("=", 1)[1] for o in options if o.startswith("--sdk_container_image=")]
        assert image == (given or ["seesaw"])[0]


@pytest.mark.parametrize("options", SHOWN, ids=lambda options: options[0])
def test_flags_are_those_of_beam(options):
    known = beam_options.PipelineOptions(list(options)).get_all_options(drop_default=True)
    for option in options:
        name, value = option.removeprefix("--").split("=", 1)
        assert str(known[name]) == value, option
