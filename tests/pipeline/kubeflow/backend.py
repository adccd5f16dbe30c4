"""The driver and the launcher of the open-source backend, as far as a pipeline of containers needs them.

Written from backend/src/v2 of kubeflow/pipelines: driver/resolve.go, driver/driver.go (provisionOutputs),
cacheutils/cache.go and component/launcher_v2.go. What the backend does to a container it does here too: the command and
the arguments are those of the specification with `{{$}}` replaced by the ExecutorInput, inputs come with an empty
schema, outputs have the launcher's logs among them, and what came of a step is read from its output file. Instead of a
container there is a process; instead of an object store, folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_FROM_VALUE = {"STRING": str, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}


@dataclass
class Step:
    """A task that ran.

    Attributes:
      command: what was run, with all placeholders filled in.
      executor_input: what `{{$}}` stood for.
      cached: answered from an earlier run.
      parameters, artifacts: its outputs.
    """

    name: str
    image: str
    command: list[str]
    executor_input: Json
    cached: bool
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Json] = field(default_factory=dict)


class Backend:
    """Runs pipelines on folders.

    Args:
      folder: of the artifacts and of each step's output file.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._runs = 0
        self._artifact_ids = 0
        self._cache: dict[str, Step] = {}

    def run(self, spec: Json, parameters: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Step]:
        """Runs the tasks of a PipelineSpec in the order of their dependencies.

        Args:
          spec: the first document of the compiled YAML.
          parameters: runtime parameters of the run.
          environment: variables of the container.
        """
        self._runs += 1
        root = spec["root"]
        declared = root["inputDefinitions"]["parameters"]
        unknown = set(parameters) - set(declared)
        assert not unknown, f"parameters that the pipeline does not have: {unknown}"
        given = {name: p["defaultValue"] for name, p in declared.items() if "defaultValue" in p} | dict(parameters)
        for name, value in given.items():
            _check_type(name, value, declared[name])
        steps: dict[str, Step] = {}
        for name in topological(root["dag"]["tasks"]):
            task = root["dag"]["tasks"][name]
            steps[name] = self._step(name, task, spec, given, steps, environment)
        return steps

    def _step(
        self, name: str, task: Json, spec: Json, given: Json, steps: dict[str, Step], environment: Mapping[str, str]
    ) -> Step:
        component = spec["components"][task["componentRef"]["name"]]
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        inputs = self._inputs(task, component, given, steps)
        outputs = self._outputs(name, component)
        executor_input = {"inputs": inputs, "outputs": outputs}
        image = _filled(container["image"], inputs["parameterValues"])
        command = [*container["command"], *container["args"]]
        key = _cache_key(inputs, outputs, component, command, container["image"])
        if task.get("cachingOptions", {}).get("enableCache") and key in self._cache:
            found = self._cache[key]
            return Step(name, image, [], executor_input, True, found.parameters, found.artifacts)
        # The launcher fills in {{$}} first and all other placeholders, in what that brought too, after it.
        filled = [
            _filled(word.replace("{{$}}", json.dumps(executor_input)), inputs["parameterValues"]) for word in command
        ]
        step = Step(name, image, filled, executor_input, cached=False)
        self._launch(step, component, environment)
        self._cache[key] = step
        return step

    def _inputs(self, task: Json, component: Json, given: Json, steps: dict[str, Step]) -> Json:
        values: Json = {}
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            ((kind, where),) = source.items()
            if kind == "runtimeValue":
                values[name] = where["constant"]
            elif kind == "componentInputParameter":
                assert where in given, f"parent DAG does not have input parameter {where}"
                values[name] = given[where]
            else:
                assert kind == "taskOutputParameter", kind
                assert where["producerTask"] in steps, f"cannot find producer task {where['producerTask']}"
                values[name] = steps[where["producerTask"]].parameters[where["outputParameterKey"]]
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        for name, parameter in declared.items():
            assert name in values, f"neither value nor default value provided for non-optional parameter {name}"
            _check_type(name, values[name], parameter)
        artifacts: Json = {}
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            where = source["taskOutputArtifact"]
            assert where["producerTask"] in steps, f"cannot find producer task {where['producerTask']}"
            artifacts[name] = {"artifacts": [steps[where["producerTask"]].artifacts[where["outputArtifactKey"]]]}
        return {"parameterValues": values, "artifacts": artifacts}

    def _outputs(self, name: str, component: Json) -> Json:
        definitions = component.get("outputDefinitions", {})
        root = self._folder / str(self._runs) / name / hashlib.sha256(name.encode()).hexdigest()[:8]
        kinds = {key: a["artifactType"] for key, a in definitions.get("artifacts", {}).items()}
        kinds["executor-logs"] = {"schemaTitle": "system.Artifact"}
        return {
            "artifacts": {
                key: {"artifacts": [{"name": key, "uri": str(root / key), "type": kind, "metadata": {}}]}
                for key, kind in kinds.items()
            },
            "parameters": {
                key: {"outputFile": str(root / "parameters" / key)} for key in definitions.get("parameters", {})
            },
            "outputFile": str(root / "output_metadata.json"),
        }

    def _launch(self, step: Step, component: Json, environment: Mapping[str, str]) -> None:
        outputs = step.executor_input["outputs"]
        for path in [
            *(a["artifacts"][0]["uri"] for a in outputs["artifacts"].values()),
            *(p["outputFile"] for p in outputs["parameters"].values()),
        ]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        self._execute(step, Path(outputs["artifacts"]["executor-logs"]["artifacts"][0]["uri"]), environment)
        written = json.loads(Path(outputs["outputFile"]).read_text())
        for key, parameter in outputs["parameters"].items():
            value = written.get("parameterValues", {}).get(key)
            step.parameters[key] = Path(parameter["outputFile"]).read_text() if value is None else value
            _check_type(key, step.parameters[key], component["outputDefinitions"]["parameters"][key])
        for key, given in outputs["artifacts"].items():
            artifact = given["artifacts"][0]
            found = written.get("artifacts", {}).get(key, {"artifacts": [{}]})["artifacts"][0]
            self._artifact_ids += 1
            step.artifacts[key] = {
                "name": str(self._artifact_ids),
                "uri": found.get("uri") or artifact["uri"],
                # "TODO: figure out how to get schema", says the backend.
                "type": {"instanceSchema": ""},
                "metadata": {
                    **artifact["metadata"],
                    **found.get("metadata", {}),
                    "display_name": key,
                    "store_session_info": "null",
                },
            }

    def _execute(self, step: Step, log: Path, environment: Mapping[str, str]) -> None:
        """What the container would do."""
        ended = self._start(step, environment)
        log.write_text(ended.stdout + ended.stderr)
        if ended.returncode:
            raise StepFailed(step.name, log.read_text())

    def _start(self, step: Step, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        words = [sys.executable if word == "python" else word for word in step.command]
        return subprocess.run(words, capture_output=True, text=True, errors="replace", env=dict(environment), cwd="/")


class StepFailed(Exception):
    """A step ended with an error.

    Attributes:
      step: its name.
      log: what it printed.
    """

    def __init__(self, step: str, log: str):
        super().__init__(f"{step}:\n{log[-4000:]}")
        self.step, self.log = step, log


def edges(tasks: Mapping[str, Json]) -> dict[str, set[str]]:
    """Task -> tasks that it waits for: those it depends on, and those whose outputs it takes."""
    found = {}
    for name, task in tasks.items():
        inputs = task.get("inputs", {})
        sources = [a["taskOutputArtifact"] for a in inputs.get("artifacts", {}).values()]
        sources += [
            p["taskOutputParameter"] for p in inputs.get("parameters", {}).values() if "taskOutputParameter" in p
        ]
        found[name] = {source["producerTask"] for source in sources} | set(task.get("dependentTasks", ()))
    return found


def topological(tasks: Mapping[str, Json]) -> Iterator[str]:
    """The tasks, each after all that it waits for."""
    waits = edges(tasks)
    done: set[str] = set()
    while len(done) < len(tasks):
        ready = sorted(name for name in tasks if name not in done and waits[name] <= done)
        assert ready, f"tasks wait for each other, or for none that is there: {waits}"
        yield from ready
        done.update(ready)


def _cache_key(inputs: Json, outputs: Json, component: Json, command: list[str], image: str) -> str:
    key = {
        "inputArtifactNames": {k: [a["name"] for a in v["artifacts"]] for k, v in inputs["artifacts"].items()},
        "inputParameterValues": inputs["parameterValues"],
        "outputArtifactsSpec": {k: {**v["artifacts"][0], "uri": ""} for k, v in outputs["artifacts"].items()},
        "outputParametersSpec": component.get("outputDefinitions", {}).get("parameters", {}),
        "containerSpec": {"cmdArgs": command, "containerImage": image},
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _filled(text: str, parameters: Json) -> str:
    def value(match: re.Match) -> str:
        found = parameters[match[1]]
        return found if isinstance(found, str) else json.dumps(found)

    return re.sub(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}", value, text)


def _check_type(name: str, value: Any, declared: Json) -> None:
    expected = declared["parameterType"]
    assert isinstance(value, _FROM_VALUE[expected]), f"{name}: expected {expected}, got {value!r}"
    if expected != "BOOLEAN":
        assert not isinstance(value, bool), f"{name}: expected {expected}, got {value!r}"
