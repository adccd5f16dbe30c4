"""What the entrypoint makes of the launcher's call."""

from __future__ import annotations

import json

import pytest

from models.section import UserError
from pipeline.kubeflow import entrypoint

SPEC = {
    "artifacts": {"model": {"artifactType": {"instanceSchema": "title: tfx.Model\ntype: object\n"}}},
    "parameters": {"epochs": {"parameterType": "NUMBER_INTEGER"}},
}


def call(uri: str = "gs://b/model/7") -> dict:
    return {
        "inputs": {
            "parameterValues": {"epochs": 2, "image": "seesaw:1"},
            "artifacts": {"model": {"artifacts": [{"name": "7", "uri": uri, "type": {"instanceSchema": ""}}]}},
        },
        "outputs": {
            "artifacts": {
                "report": {"artifacts": [{"uri": "s3://b/r", "type": {"instanceSchema": "title: seesaw.LogReport"}}]},
                "executor-logs": {"artifacts": [{"uri": "s3://b/l", "type": {"schemaTitle": "system.Artifact"}}]},
            },
            "outputFile": "/tmp/out.json",
        },
    }


def test_inputs_take_their_type_from_the_specification():
    found = entrypoint.understood(call(), SPEC)
    (model,) = found["inputs"]["artifacts"]["model"]["artifacts"]
    assert model == {"name": "7", "uri": "gs://b/model/7", "type": SPEC["artifacts"]["model"]["artifactType"]}


def test_tfx_reads_what_it_would_have_refused():
    utils = pytest.importorskip("tfx.orchestration.kubeflow.v2.container.kubeflow_v2_entrypoint_utils")
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    def parsed(given: dict):
        message = json_format.ParseDict(given, pipeline_spec_pb2.ExecutorInput())
        return (
            utils.parse_raw_artifact_dict(message.inputs.artifacts, {}),
            utils.parse_raw_artifact_dict(message.outputs.artifacts, {}),
        )

    with pytest.raises(Exception):  # noqa: B017  what TFX raises differs between its versions
        parsed(call())
    inputs, outputs = parsed(entrypoint.understood(call(), SPEC))
    assert inputs["model"][0].type_name == "Model" and inputs["model"][0].uri == "gs://b/model/7"
    assert outputs["report"][0].type_name == "seesaw.LogReport"


def test_the_launchers_output_and_the_image_are_not_the_executors():
    found = entrypoint.understood(call(), SPEC)
    assert set(found["outputs"]["artifacts"]) == {"report"}
    assert found["inputs"]["parameterValues"] == {"epochs": 2}


@pytest.mark.parametrize(
    "uri, path",
    [
        ("minio://mlpipeline/v2/a", "/minio/mlpipeline/v2/a"),
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("/mnt/root/a", "/mnt/root/a"),
    ],
)
def test_object_stores_that_tensorflow_cannot_read_are_read_where_the_launcher_put_them(uri, path):
    assert entrypoint.local_path(uri) == path
    (model,) = entrypoint.understood(call(uri), SPEC)["inputs"]["artifacts"]["model"]["artifacts"]
    assert model["uri"] == path


def test_an_input_that_the_component_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"input 'model': expected one of the component's inputs \(examples\)"):
        entrypoint.understood(call(), {"artifacts": {"examples": {}}})


def test_the_call_is_left_as_it_was():
    given = call()
    entrypoint.understood(given, SPEC)
    assert given == call()


def test_the_backend_gets_its_addresses_back(tmp_path, monkeypatch):
    """The whole of main, around an executor that writes what TFX's would."""
    runner = pytest.importorskip("tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor")
    monkeypatch.setitem(entrypoint.LOCAL, "s3://", f"{tmp_path}/s3/")
    given = call("minio://b/m")
    given["outputs"]["outputFile"] = str(tmp_path / "out.json")
    given["outputs"]["parameters"] = {"days": {"outputFile": str(tmp_path / "parameters" / "days")}}

    def run(parsed):
        args, beam = parsed
        assert args.executor_class_path == "a.B" and beam == ["--runner=FnApiRunner"]
        seen = json.loads(args.json_serialized_invocation_args)
        (report,) = seen["outputs"]["artifacts"]["report"]["artifacts"]
        assert report["uri"] == f"{tmp_path}/s3/b/r"
        # By the backend's launcher, or where that did not, by the entrypoint.
        assert (tmp_path / "s3" / "b").is_dir() and (tmp_path / "parameters").is_dir()
        written = {
            "artifacts": {
                "report": {"artifacts": [{"name": "report", "uri": report["uri"], "metadata": {}}]},
                "days": {"artifacts": [{"name": "days", "uri": str(tmp_path / "parameters" / "days")}]},
            },
            "parameterValues": {"days": "7"},
        }
        (tmp_path / "out.json").write_text(json.dumps(written))

    monkeypatch.setattr(runner, "main", run)
    monkeypatch.setattr("sys.argv", ["entrypoint"])
    entrypoint.main(
        [
            "--executor_class_path", "a.B", "--json_serialized_invocation_args", json.dumps(given),
            "--json_serialized_inputs_spec_args", json.dumps(SPEC), "--runner=FnApiRunner",
        ]
    )  # fmt: skip
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["artifacts"]["report"]["artifacts"][0]["uri"] == "s3://b/r"
    # TFX tells of parameters as artifacts, too.
    assert set(written["artifacts"]) == {"report"} and written["parameterValues"] == {"days": "7"}
