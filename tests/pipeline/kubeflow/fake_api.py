"""A Kubeflow Pipelines API server: takes what the real one's schemas allow, and remembers it.

The schemas are those of kfp_server_api's models, which are made from the backend's own description of its API: every
key of a body has to be a field of the model, every value of the field's type, and enumerations have to be kept. Uploads
are parsed as the backend parses them: strictly, as PipelineSpec and PlatformSpec.
"""

from __future__ import annotations

import email
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

Json = dict[str, Any]
PREFIX = "/apis/v2beta1"

INT64 = ("max_concurrency", "interval_second")
"""Text by the schema, as all 64-bit numbers in the JSON of protocol buffers; the real server's gateway reads both."""


class Refused(Exception):
    """The server refuses a request."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class FakeApi:
    """The server's state.

    Attributes:
      requests: method and path of everything that was asked for.
      pipelines, versions, experiments, runs, recurring_runs: by id.
      finish: state that a run has from the second look at it on.
      fail_on: runs with this text among their parameters fail.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.experiments: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.recurring_runs: dict[str, Json] = {}
        self.finish = "SUCCEEDED"
        self.fail_on: str | None = None
        self.url = ""

    @property
    def writes(self) -> list[str]:
        return [r for r in self.requests if not r.startswith("GET")]

    def handle(self, method: str, url: str, content_type: str, body: bytes) -> Json:
        parts = urlsplit(url)
        path, query = parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.requests.append(f"{method} {path}")
        for wanted, pattern, answer in self._routes():
            match = re.fullmatch(PREFIX + pattern, path)
            if wanted == method and match:
                if "upload" in path:
                    return answer(query, _uploaded(content_type, body))
                return answer(query, json.loads(body) if body else {}, *match.groups())
        raise Refused(404, f"no such method: {method} {path}")

    def _routes(self) -> list[tuple[str, str, Any]]:
        one = "/([^/:]+)"
        return [
            ("GET", "/healthz", lambda query, body: {"multi_user": False}),
            ("POST", "/pipelines/upload", self._upload_pipeline),
            ("POST", "/pipelines/upload_version", self._upload_version),
            ("GET", "/pipelines", lambda q, b: {"pipelines": self._listed(self.pipelines, q)}),
            ("GET", f"/pipelines{one}/versions", self._list_versions),
            ("GET", "/experiments", lambda q, b: {"experiments": self._listed(self.experiments, q)}),
            ("POST", "/experiments", self._create_experiment),
            ("GET", "/runs", self._list_runs),
            ("GET", f"/runs{one}", self._get_run),
            ("POST", "/runs", self._create_run),
            ("GET", "/recurringruns", self._list_recurring),
            ("POST", "/recurringruns", self._create_recurring),
            ("DELETE", f"/recurringruns{one}", self._delete_recurring),
        ]

    def _upload_pipeline(self, query: Json, text: bytes) -> Json:
        _check_pipeline(text)
        if any(p["display_name"] == query["name"] for p in self.pipelines.values()):
            raise Refused(409, f"the name {query['name']} already exists")
        pipeline = self._new(self.pipelines, "pipeline_id", {"display_name": query["name"]})
        self._new(self.versions, "pipeline_version_id", {**pipeline, "text": text.decode()})
        return pipeline

    def _upload_version(self, query: Json, text: bytes) -> Json:
        _check_pipeline(text)
        pipeline = self._there(self.pipelines, query["pipelineid"])
        for version in self.versions.values():
            if (version["pipeline_id"], version["display_name"]) == (pipeline["pipeline_id"], query["name"]):
                raise Refused(409, f"the version {query['name']} already exists")
        made = {"pipeline_id": pipeline["pipeline_id"], "display_name": query["name"], "text": text.decode()}
        return _without_text(self._new(self.versions, "pipeline_version_id", made))

    def _list_versions(self, query: Json, body: Json, pipeline: str) -> Json:
        self._there(self.pipelines, pipeline)
        found = [_without_text(v) for v in self.versions.values() if v["pipeline_id"] == pipeline]
        return {"pipeline_versions": found}

    def _create_experiment(self, query: Json, body: Json) -> Json:
        check(body, kfp_server_api.V2beta1Experiment)
        return self._new(self.experiments, "experiment_id", body)

    def _create_run(self, query: Json, body: Json) -> Json:
        check(body, kfp_server_api.V2beta1Run)
        self._check_references(body)
        return self._new(self.runs, "run_id", {**body, "state": "PENDING"})

    def _list_runs(self, query: Json, body: Json) -> Json:
        found = [r for r in self.runs.values() if r["experiment_id"] == query["experiment_id"]]
        return {"runs": [self._looked_at(run) for run in reversed(found)]}

    def _get_run(self, query: Json, body: Json, run: str) -> Json:
        return self._looked_at(self._there(self.runs, run))

    def _looked_at(self, run: Json) -> Json:
        """The run as it is; what is pending has ended when it is looked at again."""
        seen = dict(run)
        if run["state"] == "PENDING":
            failed = self.fail_on and self.fail_on in json.dumps(run["runtime_config"])
            run["state"] = "FAILED" if failed else self.finish
        return seen

    def _create_recurring(self, query: Json, body: Json) -> Json:
        check(body, kfp_server_api.V2beta1RecurringRun)
        self._check_references(body)
        cron = body["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) != 6:
            raise Refused(400, f"the cron expression has to have six fields: {cron}")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refused(400, "max_concurrency has to be from 1 to 10")
        return self._new(self.recurring_runs, "recurring_run_id", {**body, "status": "ENABLED"})

    def _list_recurring(self, query: Json, body: Json) -> Json:
        found = [r for r in self.recurring_runs.values() if r["experiment_id"] == query["experiment_id"]]
        return {"recurringRuns": found}

    def _delete_recurring(self, query: Json, body: Json, job: str) -> Json:
        self._there(self.recurring_runs, job)
        del self.recurring_runs[job]
        return {}

    def _check_references(self, body: Json) -> None:
        """A version that is there, an experiment that is there, and a value for every parameter."""
        reference = body["pipeline_version_reference"]
        self._there(self.experiments, body["experiment_id"])
        version = self._there(self.versions, reference["pipeline_version_id"])
        if version["pipeline_id"] != reference["pipeline_id"]:
            raise Refused(400, "the version is of another pipeline")
        spec = next(yaml.safe_load_all(version["text"]))
        declared = spec["root"]["inputDefinitions"]["parameters"]
        given = body["runtime_config"].get("parameters") or {}
        if unknown := set(given) - set(declared):
            raise Refused(400, f"parameters that the pipeline does not have: {unknown}")
        for name, parameter in declared.items():
            if name not in given and "defaultValue" not in parameter:
                raise Refused(400, f"parameter {name} is not optional, but has neither a default nor a value")

    def _listed(self, table: dict[str, Json], query: Json) -> list[Json]:
        found = list(table.values())
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", ()):
            found = [row for row in found if row[predicate["key"]] == predicate["stringValue"]]
        return found

    def _new(self, table: dict[str, Json], key: str, row: Json) -> Json:
        made = {**row, key: str(uuid.uuid4()), "created_at": datetime.now(timezone.utc).isoformat()}
        table[made[key]] = made
        return made

    def _there(self, table: dict[str, Json], key: str) -> Json:
        if key not in table:
            raise Refused(404, f"{key} is not there")
        return table[key]


def check(body: Any, model: type, where: str = "body", models: ModuleType = kfp_server_api) -> None:
    """Refuses a body that is not of a model of an API's generated client."""
    keys = {json_key: (field, model.openapi_types[field]) for field, json_key in model.attribute_map.items()}
    if not isinstance(body, dict):
        raise Refused(400, f"{where}: expected an object, got {body!r}")
    for key, value in body.items():
        if key not in keys:
            raise Refused(400, f"{where}: unknown field {key} of {model.__name__}")
        _check_value(value, keys[key][1], f"{where}.{key}", models)


def _check_value(value: Any, kind: str, where: str, models: ModuleType) -> None:
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "datetime": str}
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            raise Refused(400, f"{where}: expected a list, got {value!r}")
        for i, item in enumerate(value):
            _check_value(item, match[1], f"{where}[{i}]", models)
    elif match := re.fullmatch(r"dict\((.+), (.+)\)", kind):
        if not isinstance(value, dict):
            raise Refused(400, f"{where}: expected a mapping, got {value!r}")
        for key, item in value.items():
            _check_value(item, match[2], f"{where}.{key}", models)
    elif kind in plain:
        if where.rsplit(".", 1)[-1] in INT64 and isinstance(value, int):
            return
        if not isinstance(value, plain[kind]) or (kind in ("int", "float") and isinstance(value, bool)):
            raise Refused(400, f"{where}: expected {kind}, got {value!r}")
    else:
        model = getattr(models, kind)
        if model.openapi_types:
            check(value, model, where, models)
        elif value not in model.allowable_values:
            raise Refused(400, f"{where}: expected one of {model.allowable_values}, got {value!r}")


def _check_pipeline(text: bytes) -> None:
    documents = list(yaml.safe_load_all(text))
    try:
        spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for platform in documents[1:]:
            json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refused(400, f"not a pipeline: {error}") from None
    if spec.schema_version != "2.1.0":
        raise Refused(400, f"unsupported schema version {spec.schema_version}")


def _without_text(version: Json) -> Json:
    return {key: value for key, value in version.items() if key != "text"}


def _uploaded(content_type: str, body: bytes) -> bytes:
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    (part,) = [p for p in message.get_payload() if p.get_param("name", header="content-disposition") == "uploadfile"]
    return part.get_payload(decode=True)


@contextmanager
def serving() -> Iterator[FakeApi]:
    """A server on a port of its own."""
    api = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, content = 200, api.handle(self.command, self.path, self.headers.get("Content-Type", ""), body)
            except Refused as refused:
                status, content = refused.status, {"error": str(refused), "message": str(refused)}
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
