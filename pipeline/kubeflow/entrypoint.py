"""What the containers run: makes of the open-source backend's call what TFX's executors understand.

The backend's launcher calls it with the compiled command, `{{$}}` filled with an ExecutorInput. That differs in three
points from what TFX's own entrypoint expects:

- Input artifacts come without a type (https://github.com/tensorflow/tfx/issues/7768). The component's input
  specification, which is among the arguments, has it.
- minio:// and s3:// cannot be read by TensorFlow. The launcher has put inputs under /minio and /s3, and takes the
  outputs from there. gs:// stays as it is.
- There is an output 'executor-logs' of the launcher's own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from models.runtime import prepare_process
from models.section import UserError
from pipeline.kubeflow.workers import run_on_workers

LOCAL = {"minio://": "/minio/", "s3://": "/s3/"}
"""Where the launcher keeps what is in an object store that TensorFlow cannot read."""

OWN_TYPES = {"seesaw.LogReport": "components.log_example_gen.component.LogReport"}
"""Import paths of artifact types by their titles; TFX's entrypoint knows those of its own."""

_LAUNCHERS_OWN = "executor-logs"

Json = dict[str, Any]


def main(arguments: Sequence[str]) -> None:
    """Runs one component.

    Args:
      arguments: --executor_class_path, --json_serialized_invocation_args, --json_serialized_inputs_spec_args, and
        flags of Beam; with --workers, a TFJob, the component runs as that job.

    Raises:
      UserError: if the component does not find its data or settings as it should.
    """
    prepare_process(verbose=True)
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.entrypoint", allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True)
    parser.add_argument("--workers")
    args, beam_args = parser.parse_known_args(arguments)
    call = json.loads(args.json_serialized_invocation_args)
    if args.workers:
        of_job = list(arguments).index("--workers")
        run_on_workers(json.loads(args.workers), [*arguments[:of_job], *arguments[of_job + 2 :]], call)
        return
    addresses = {artifact["uri"]: local_path(artifact["uri"]) for _, artifact in _artifacts(call)}
    seen = understood(call, json.loads(args.json_serialized_inputs_spec_args))
    _make_folders(seen)
    args.json_serialized_invocation_args = json.dumps(seen)
    # TFX parses this process's arguments as absl's flags in every component with Beam.
    sys.argv = sys.argv[:1]
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    kubeflow_v2_run_executor.main((args, beam_args))
    _rewrite_output(call, {path: uri for uri, path in addresses.items()})


def local_path(uri: str) -> str:
    """Where this process reads and writes an artifact."""
    for scheme, folder in LOCAL.items():
        if uri.startswith(scheme):
            return folder + uri.removeprefix(scheme)
    return uri


def understood(call: Json, inputs_spec: Json) -> Json:
    """The ExecutorInput as TFX understands it.

    Args:
      call: the ExecutorInput of the launcher.
      inputs_spec: the component's ComponentInputsSpec.

    Raises:
      UserError: if the specification does not have an input.
    """
    call = json.loads(json.dumps(call))
    call.get("outputs", {}).get("artifacts", {}).pop(_LAUNCHERS_OWN, None)
    # The image is a parameter of the container, and none of the executor.
    values = call.get("inputs", {}).get("parameterValues", {})
    for key in set(values) - set(inputs_spec.get("parameters", {})):
        del values[key]
    declared = inputs_spec.get("artifacts", {})
    for key in call.get("inputs", {}).get("artifacts", {}):
        if key not in declared:
            raise UserError(f"input '{key}': expected one of the component's inputs ({', '.join(sorted(declared))})")
    for key, artifact in _artifacts(call, "inputs"):
        artifact["type"] = declared[key]["artifactType"]
    for key, artifact in _artifacts(call):
        artifact["type"] = _importable(artifact["type"])
        artifact["uri"] = local_path(artifact["uri"])
        # TFX keys its artifacts by name.
        artifact.setdefault("name", key)
    return call


def _importable(kind: Json) -> Json:
    """The type of an artifact, with the import path of a class in place of the title of one of our own."""
    title = kind.get("schemaTitle") or yaml.safe_load(kind["instanceSchema"]).get("title")
    return {"schemaTitle": OWN_TYPES[title]} if title in OWN_TYPES else kind


def _artifacts(call: Json, *sides: str) -> Iterator[tuple[str, Json]]:
    for side in sides or ("inputs", "outputs"):
        for key, given in call.get(side, {}).get("artifacts", {}).items():
            yield from ((key, artifact) for artifact in given.get("artifacts", ()))


def _make_folders(call: Json) -> None:
    """Those of the outputs: the launcher has made them, but the SDK's local runner leaves that to the container."""
    paths = [artifact["uri"] for _, artifact in _artifacts(call, "outputs")]
    paths += [parameter["outputFile"] for parameter in call["outputs"].get("parameters", {}).values()]
    for path in paths:
        if "://" not in path:
            os.makedirs(os.path.dirname(path), exist_ok=True)


def _rewrite_output(call: Json, uris: dict[str, str]) -> None:
    """Gives the outputs the addresses of the object store back, by which the backend and later components know them.

    TFX tells of a parameter as an artifact, too. That goes: the SDK's local runner would take it for the parameter.
    """
    file = call["outputs"]["outputFile"]
    with open(file, encoding="utf-8") as read:
        output = json.load(read)
    for key in call["outputs"].get("parameters", {}):
        output.get("artifacts", {}).pop(key, None)
    for given in output.get("artifacts", {}).values():
        for artifact in given.get("artifacts", ()):
            artifact["uri"] = uris[artifact["uri"]]
    with open(file, "w", encoding="utf-8") as written:
        json.dump(output, written)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
