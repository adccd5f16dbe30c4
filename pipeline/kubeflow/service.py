"""A Kubeflow Pipelines installation: what is uploaded, run and scheduled there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.run_setup import LATEST, WHOLE_WINDOW
from models.section import UserError
from pipeline.kubeflow.compiler import Compiled
from pipeline.kubeflow.config import KubeflowConfig

Echo = Callable[[str], None]

ACTIVE = ("PENDING", "RUNNING", "PAUSED", "CANCELING", "RUNTIME_STATE_UNSPECIFIED")
"""States of a run that has not ended."""

_PAGE = 100
_NOWHERE = "http://localhost"


@dataclass(frozen=True)
class RunRow:
    """A run, as the backend tells of it."""

    run_id: str
    name: str
    state: str
    created: str
    first_day: str
    last_day: str


class Service:
    """The pipeline of one name on one installation.

    What is there already is left alone, so that doing anything twice is the same as doing it once.

    Args:
      name: of the pipeline.
      config: with the address of the API.
      echo: is told what is done.
    """

    def __init__(self, name: str, config: KubeflowConfig, echo: Echo):
        self._name, self._config, self._echo = name, config, echo
        self._experiment_name = config.experiment or name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import kfp

            # 'kubeflow' is the client's word for: none given.
            self._client = kfp.Client(host=config.host or _NOWHERE, namespace=config.namespace or "kubeflow")

    def submit(self, compiled: Compiled, parameters: dict[str, Any], *, again: bool = False) -> tuple[str, bool]:
        """Uploads the pipeline if it is new, and starts a run.

        Args:
          compiled: the pipeline.
          parameters: of the run, beside the defaults.
          again: start it, though one with the same pipeline and parameters is under way, or has succeeded on given
            days.

        Returns:
          Its id, and whether it was started now: False where it was there already.
        """
        _check_parameters(compiled, parameters)
        given = compiled.parameters | parameters
        name = run_name(self._name, compiled, parameters)
        # On other days the latest ones are others.
        done = ACTIVE if given["last_day"] == LATEST else (*ACTIVE, "SUCCEEDED")
        found = next((run for run in self.runs() if run.name == name and run.state in done), None)
        if found and not again:
            self._echo(f"{name}: is there already ({found.state.lower()})")
            return found.run_id, False
        reference = self._upload(compiled)
        experiment = self._experiment()
        with _quiet():
            run = self._client.run_pipeline(
                experiment_id=experiment,
                job_name=name,
                params=given,
                pipeline_id=reference[0],
                version_id=reference[1],
                pipeline_root=self._config.pipeline_root or None,
                service_account=self._config.service_account,
            )
        self._echo(f"{name}: started ({run.run_id})")
        return run.run_id, True

    def schedule(self, compiled: Compiled) -> str:
        """Has the pipeline run by the configuration's schedule; an earlier schedule of it ends.

        Missed runs are not caught up with: each run reads the latest days.

        Returns:
          Id of the recurring run.

        Raises:
          UserError: if the configuration names the last day.
        """
        if compiled.parameters["last_day"] != LATEST:
            raise UserError(
                f"window.last_day: expected 'latest' for a schedule, got {compiled.parameters['last_day']}: each run "
                f"would read the same days"
            )
        reference = self._upload(compiled)
        schedule = self._config.schedule
        there = self._recurring()
        for job in there:
            if self._is_current(job, reference, compiled):
                self._echo(f"{self._name}: is scheduled already ({schedule.cron})")
                self._unschedule([j for j in there if j is not job])
                return job.recurring_run_id
        experiment = self._experiment()
        with _quiet():
            created = self._client.create_recurring_run(
                experiment_id=experiment,
                job_name=self._name,
                cron_expression=schedule.cron,
                max_concurrency=self._config.max_concurrency,
                no_catchup=True,
                params=compiled.parameters,
                pipeline_id=reference[0],
                version_id=reference[1],
                enabled=schedule.enabled,
                pipeline_root=self._config.pipeline_root or None,
                service_account=self._config.service_account,
            )
        # The old ones last: a failure leaves two schedules rather than none.
        self._unschedule(there)
        self._echo(f"{self._name}: scheduled, {schedule.cron}")
        return created.recurring_run_id

    def unschedule(self) -> int:
        """Ends the schedule. Returns the number of recurring runs that were deleted."""
        there = self._recurring()
        self._unschedule(there)
        if not there:
            self._echo(f"{self._name}: was not scheduled")
        return len(there)

    def backfill(
        self, compiled: Compiled, parameters: dict[str, Any], first: date, last: date, *, poll: float, wait: bool = True
    ) -> list[date]:
        """Runs the windows that end on each day from `first` to `last`, one after the other.

        Windows that have succeeded with this pipeline and these parameters are left out.

        Args:
          compiled: the pipeline.
          parameters: of all runs, beside the defaults and last_day.
          first, last: last days of the first and the last window.
          poll: seconds between looks at a run.
          wait: False starts a run without waiting for it; for dry runs.

        Returns:
          The days for which a run was started.

        Raises:
          UserError: when a run fails; the windows after it are not run, for they would start from its model.
        """
        if last < first:
            raise UserError(f"--to: expected a day from {first} on, got {last}")
        started = []
        for day in (first + timedelta(days=i) for i in range((last - first).days + 1)):
            given = parameters | {"last_day": day.isoformat()}
            run_id, new = self.submit(compiled, given)
            if new:
                started.append(day)
            if wait:
                self._wait(run_id, poll)
        return started

    def _wait(self, run_id: str, poll: float) -> None:
        """Until a run has ended."""
        while True:
            run = self._client.get_run(run_id)
            state = run.state or "PENDING"
            if state not in ACTIVE:
                break
            time.sleep(poll)
        self._echo(f"{run.display_name}: {state.lower()}")
        if state != "SUCCEEDED":
            raise UserError(f"{run.display_name}: {state.lower()}; the windows after it were not run")

    def _upload(self, compiled: Compiled) -> tuple[str, str]:
        """Ids of the pipeline and of the version with this text."""
        pipeline = self._client.get_pipeline_id(self._name)
        if pipeline is None:
            with _quiet(), _file(compiled) as path:
                made = self._client.upload_pipeline(
                    str(path), pipeline_name=self._name, namespace=self._config.namespace
                )
            pipeline, versions = made.pipeline_id, []
            self._echo(f"{self._name}: pipeline uploaded")
        else:
            versions = _pages(self._client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline)
        version_name = f"{self._name}-{compiled.version}"
        for version in versions:
            if version.display_name == version_name:
                return pipeline, version.pipeline_version_id
        with _quiet(), _file(compiled) as path:
            uploaded = self._client.upload_pipeline_version(str(path), version_name, pipeline_id=pipeline)
        self._echo(f"{version_name}: version uploaded")
        return pipeline, uploaded.pipeline_version_id

    def _find_experiment(self) -> str | None:
        try:
            found = self._client.get_experiment(experiment_name=self._experiment_name, namespace=self._config.namespace)
        except ValueError:  # what the client makes of 'not found'
            return None
        return found.experiment_id

    def _experiment(self) -> str:
        found = self._find_experiment()
        if found is None:
            with _quiet():
                made = self._client.create_experiment(self._experiment_name, namespace=self._config.namespace)
            found = made.experiment_id
            self._echo(f"{self._experiment_name}: experiment made")
        return found

    def runs(self) -> list[RunRow]:
        """The runs of the experiment, newest first."""
        experiment = self._find_experiment()
        if experiment is None:
            return []
        found = _pages(
            self._client.list_runs,
            "runs",
            experiment_id=experiment,
            sort_by="created_at desc",
            namespace=self._config.namespace,
        )
        rows = []
        for run in found:
            given = (run.runtime_config and run.runtime_config.parameters) or {}
            rows.append(
                RunRow(
                    run.run_id,
                    run.display_name,
                    run.state or "PENDING",
                    str(run.created_at or ""),
                    str(given.get("first_day", "")),
                    str(given.get("last_day", "")),
                )
            )
        return rows

    def _recurring(self) -> list[Any]:
        experiment = self._find_experiment()
        if experiment is None:
            return []
        found = _pages(
            self._client.list_recurring_runs,
            "recurring_runs",
            experiment_id=experiment,
            namespace=self._config.namespace,
        )
        return [job for job in found if job.display_name == self._name]

    def _is_current(self, job: Any, reference: tuple[str, str], compiled: Compiled) -> bool:
        schedule = self._config.schedule
        wanted = {
            "version": reference,
            "cron": schedule.cron,
            "parameters": compiled.parameters,
            "root": self._config.pipeline_root or None,
            "concurrency": str(self._config.max_concurrency),
            "enabled": schedule.enabled,
            "account": self._config.service_account,
        }
        pipeline, config, trigger = job.pipeline_version_reference, job.runtime_config, job.trigger
        there = {
            "version": (pipeline.pipeline_id, pipeline.pipeline_version_id) if pipeline else None,
            "cron": trigger.cron_schedule.cron if trigger and trigger.cron_schedule else None,
            "parameters": dict(config.parameters or {}) if config else {},
            "root": (config.pipeline_root or None) if config else None,
            "concurrency": str(job.max_concurrency),
            "enabled": job.mode == "ENABLE",
            "account": job.service_account or None,
        }
        if not wanted["account"]:
            wanted["account"] = there["account"]  # the backend writes its own there
        return there == wanted and bool(job.no_catchup)

    def _unschedule(self, jobs: list[Any]) -> None:
        for job in jobs:
            self._client.delete_recurring_run(job.recurring_run_id)
            self._echo(f"{self._name}: earlier schedule deleted ({job.recurring_run_id})")


def run_name(name: str, compiled: Compiled, parameters: dict[str, Any]) -> str:
    """Name of a run: the same for the same pipeline and parameters, and for no others."""
    given = compiled.parameters | parameters
    digest = hashlib.sha256(json.dumps([compiled.version, given], sort_keys=True).encode()).hexdigest()
    return f"{name} {given['last_day']} {digest[:8]}"


@contextlib.contextmanager
def dry_run(echo: Echo, *, empty: bool) -> Iterator[None]:
    """Has requests that would change something printed and not sent; what is there is still asked for.

    Args:
      echo: prints them, or that there are none.
      empty: ask nobody, but take it that nothing is there.
    """
    from kfp_server_api import rest

    send = rest.RESTClientObject.request
    out = sys.stdout
    told: set[str] = set()

    def request(self, method, url, query_params=None, headers=None, body=None, post_params=None, **kwargs):
        if method == "GET":
            if empty:
                return _Answer("{}")
            return send(self, method, url, query_params, headers, body, post_params, **kwargs)
        query = "&".join(f"{key}={value}" for key, value in query_params or ())
        text = f"{method} {urlsplit(url).path}{'?' + query if query else ''}"
        if body:
            text += "\n" + json.dumps(body, indent=1)
        if post_params:
            files = [given[1][0] for given in post_params if isinstance(given[1], tuple)]
            text += f"\nmultipart/form-data: {', '.join(files)}"
        # What the first of several runs makes, the next one would find.
        if text not in told:
            told.add(text)
            with contextlib.redirect_stdout(out):  # the client's own words are held back at this time
                echo(text)
        new = {
            key: f"<new {key.removesuffix('_id').replace('_', ' ')}>"
            for key in ("pipeline_id", "pipeline_version_id", "experiment_id", "run_id", "recurring_run_id")
        }
        return _Answer(json.dumps({**(body if isinstance(body, dict) else {}), **new}))

    rest.RESTClientObject.request = request
    try:
        yield
    finally:
        rest.RESTClientObject.request = send
    if not told:
        echo("nothing would change")


class _Answer:
    """An answer of the API, as its client reads one."""

    def __init__(self, text: str):
        self.status, self.reason, self.data = 200, "OK", text.encode()

    def getheaders(self) -> dict[str, str]:
        return {"Content-Type": "application/json"}

    def getheader(self, name: str, default: str | None = None) -> str | None:
        return self.getheaders().get(name, default)


def check_host(host: str | None) -> None:
    """That something answers; the client would try for half a minute.

    Raises:
      UserError: if no address is given or nothing answers there.
    """
    if not host:
        raise UserError("kubeflow.host: required, but not given: the address of the Kubeflow Pipelines API")
    try:
        urllib.request.urlopen(f"{host.rstrip('/')}/apis/v2beta1/healthz", timeout=10).close()
    except urllib.error.HTTPError:
        pass  # something answers: the client logs in
    except (OSError, ValueError) as error:
        raise UserError(f"kubeflow.host: nothing answers at '{host}': {error}") from None


def _check_parameters(compiled: Compiled, parameters: dict[str, Any]) -> None:
    """The backend would find out only in the cluster."""
    types: dict[str, tuple[type, ...]] = {
        "STRING": (str,),
        "NUMBER_INTEGER": (int,),
        "NUMBER_DOUBLE": (int, float),
    }
    declared = compiled.spec["root"]["inputDefinitions"]["parameters"]
    for name, value in parameters.items():
        if name not in declared:
            raise UserError(f"--param {name}: expected one of {', '.join(sorted(declared))}")
        kind = declared[name]["parameterType"]
        if not isinstance(value, types[kind]) or isinstance(value, bool):
            raise UserError(f"--param {name}: expected {kind}, got {value!r}")
    for name in ("first_day", "last_day"):
        text = (compiled.parameters | parameters)[name]
        if text not in (LATEST, WHOLE_WINDOW) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise UserError(f"--param {name}: expected a day such as 2026-01-31, got '{text}'")


def _pages(listing: Callable[..., Any], key: str, **arguments: Any) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        page = listing(page_token=token, page_size=_PAGE, **arguments)
        found += getattr(page, key) or []
        token = page.next_page_token
        if not token:
            return found


@contextlib.contextmanager
def _file(compiled: Compiled) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(compiled.text, encoding="utf-8")
        yield path


def _quiet() -> contextlib.AbstractContextManager:
    """The client prints links."""
    return contextlib.redirect_stdout(io.StringIO())
