"""Runs a TFX pipeline in this process, component by component, as TFX's LocalDagRunner does, and tells how it goes."""

from __future__ import annotations

import collections
import contextlib
import re
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import tfx_bsl.coders.batch_util  # noqa: F401  defines the flag of batches
from absl import flags
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, outputs_utils, runtime_parameter_utils
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.proto.orchestration import local_deployment_config_pb2, pipeline_pb2

from models.section import UserError
from pipeline.progress import ComponentRun, Reporter, Silent
from pipeline.run_folder import RunFolder

_BATCHES = "tfxio_use_byte_size_batching"

Outputs = dict[str, dict[str, tuple[str, ...]]]
"""Component → output key → URIs of its artifacts."""


class ComponentFailed(UserError):
    """A component of the pipeline failed; the text says what to do.

    Attributes:
      component: name of the component.
    """

    def __init__(self, component: str, message: str):
        super().__init__(f"{component}: {message}")
        self.component = component


@dataclass(frozen=True)
class RunResult:
    """How a run went.

    Attributes:
      run_id: name of the run in the logs and in ML Metadata.
      logs: folder with run.log.
      components: in the order in which they ran.
      outputs: what each component gave in this run, from the cache or anew.
    """

    run_id: str
    logs: Path
    components: tuple[ComponentRun, ...]
    outputs: Outputs = field(default_factory=dict)

    @property
    def nothing_changed(self) -> bool:
        return all(c.state == "cached" for c in self.components)

    def output(self, component: str, key: str) -> Path:
        """Folder of a component's only artifact under a key.

        Raises:
          KeyError: if the component or the key is not in the run.
        """
        (uri,) = self.outputs[component][key]
        return Path(uri)


def run_pipeline(
    pipeline: tfx_pipeline.Pipeline,
    root: str | Path | RunFolder,
    reporter: Reporter | None = None,
    *,
    use_cache: bool = True,
    only: Collection[str] | None = None,
) -> RunResult:
    """Runs the components in topological order and stops at the first that fails.

    A component that finished in an earlier run on the same inputs, parameters and fingerprint is taken from the cache,
    so a run that failed or was killed goes on where it stopped. What a killed run left half-written is removed first.

    Args:
      pipeline: its metadata connection is to be a file under the root.
      root: where the lock and the logs are; or the run's folder, where the caller has entered it already.
      reporter: is told of every component's state.
      use_cache: False runs every component.
      only: names of the components to run, with all those that they need; all components by default.

    Raises:
      RootInUse: if another process runs on the same root.
      ComponentFailed: naming the component and the cause. The traceback is in ROOT/logs/RUN/error.txt.
    """
    if not isinstance(root, RunFolder):
        with RunFolder(root) as folder:
            return run_pipeline(pipeline, folder, reporter, use_cache=use_cache, only=only)
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: root.run_id})
    run = _Run(ir, root, reporter or Silent(), use_cache, only)
    # Batches of up to 8192 rows, not 1000: a fifth of StatisticsGen's CPU time.
    if _BATCHES in flags.FLAGS:  # tfx_bsl calls it experimental
        flags.FLAGS.set_default(_BATCHES, True)
    # TFX parses this process's arguments as flags of absl's in every component with Beam, and would take '-v' for one.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        return run.execute()
    finally:
        sys.argv = arguments


class _Run:
    def __init__(
        self,
        ir: pipeline_pb2.Pipeline,
        folder: RunFolder,
        reporter: Reporter,
        use_cache: bool,
        only: Collection[str] | None,
    ):
        self._ir = ir
        self._folder = folder
        self._reporter = reporter
        nodes = [n.pipeline_node for n in ir.nodes]
        self._nodes = nodes if only is None else _with_upstream(nodes, only)
        for node in self._nodes:
            node.execution_options.caching_options.enable_cache &= use_cache
        self._deployment: local_deployment_config_pb2.LocalDeploymentConfig = (
            runner_utils.extract_local_deployment_config(ir)
        )
        connection = self._deployment.metadata_connection_config
        self._connection = getattr(connection, connection.WhichOneof("connection_config"))

    def execute(self) -> RunResult:
        names = [node.node_info.id for node in self._nodes]
        runs: dict[str, ComponentRun] = {}
        outputs: Outputs = {}
        self._clear_unfinished()
        self._reporter.start(names)
        try:
            for node in self._nodes:
                run, given = self._run_node(node)
                runs[run.name] = run
                outputs[run.name] = given
        except BaseException as error:
            for name in names[len(runs) + 1 :]:
                self._reporter.update(ComponentRun(name, "not run"))
            if isinstance(error, KeyboardInterrupt):
                # TFX's launcher publishes the end of an execution only for errors.
                self._clear_unfinished()
            raise
        finally:
            self._reporter.finish()
        return RunResult(self._folder.run_id, self._folder.logs, tuple(runs.values()), outputs)

    def _run_node(self, node: pipeline_pb2.PipelineNode) -> tuple[ComponentRun, dict[str, tuple[str, ...]]]:
        name = node.node_info.id
        self._reporter.update(ComponentRun(name, "running"))
        start = time.monotonic()
        component = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=metadata.Metadata(self._connection),
            pipeline_info=self._ir.pipeline_info,
            pipeline_runtime_spec=self._ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(self._deployment, name),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(self._deployment, name),
        )
        try:
            with _interrupts_kept():
                info = component.launch()
            # The launcher returns, and does not raise, where inputs cannot be resolved.
            if info is None or info.execution_id is None:
                raise RuntimeError("its inputs are not there: nothing was registered for it to run on")
            state, outputs = self._published(info.execution_id)
        except KeyboardInterrupt:
            self._reporter.update(ComponentRun(name, "stopped", time.monotonic() - start))
            raise
        except Exception as error:
            self._reporter.update(ComponentRun(name, "failed", time.monotonic() - start))
            raise ComponentFailed(name, self._explain(error)) from error
        cached = state == metadata_store_pb2.Execution.CACHED
        run = ComponentRun(name, "cached" if cached else "done", time.monotonic() - start)
        self._reporter.update(run)
        return run, outputs

    def _published(self, execution_id: int) -> tuple[int, dict[str, tuple[str, ...]]]:
        """State and outputs of an execution of this run, as ML Metadata has them."""
        with metadata.Metadata(self._connection) as handle:
            (execution,) = handle.store.get_executions_by_id([execution_id])
            if not execution_lib.is_execution_successful(execution):
                result = execution_lib.get_execution_result(execution, ignore_parse_errors=True)
                raise RuntimeError(result.result_message if result else "its inputs could not be resolved")
            events = [
                e
                for e in handle.store.get_events_by_execution_ids([execution_id])
                if e.type == metadata_store_pb2.Event.OUTPUT
            ]
            uris = {a.id: a.uri for a in handle.store.get_artifacts_by_id([e.artifact_id for e in events])}
        outputs: dict[str, list[str]] = collections.defaultdict(list)
        for event in events:
            outputs[event.path.steps[0].key].append(uris[event.artifact_id])
        return execution.last_known_state, {key: tuple(values) for key, values in outputs.items()}

    def _clear_unfinished(self) -> None:
        """Ends the executions that no process runs any more and removes what they have half-written.

        The lock of the root is held, so an execution that is still marked as running belongs to a killed run.
        """
        with metadata.Metadata(self._connection) as handle:
            executions = handle.store.get_executions()
            if not executions:
                self._refuse_unknown_outputs()
            unfinished = [e for e in executions if execution_lib.is_execution_active(e)]
            for execution in unfinished:
                for node in self._nodes:
                    self._remove_outputs(node, execution.id)
                execution.last_known_state = metadata_store_pb2.Execution.CANCELED
            if unfinished:
                handle.store.put_executions(unfinished)

    def _refuse_unknown_outputs(self) -> None:
        # Without its metadata an earlier run's files would be mixed with this run's: executions are numbered anew.
        for node in self._nodes:
            folder = outputs_utils.get_node_dir(self._ir.runtime_spec, node.node_info.id)
            if fileio.exists(folder):
                raise UserError(
                    f"{folder}: outputs of earlier runs are here, but ML Metadata knows of no run; "
                    f"remove the folder, or give another --root"
                )

    def _remove_outputs(self, node: pipeline_pb2.PipelineNode, execution_id: int) -> None:
        folder = outputs_utils.get_node_dir(self._ir.runtime_spec, node.node_info.id)
        system = f"{folder}/.system"
        left = [f"{folder}/{key}/{execution_id}" for key in node.outputs.outputs]
        left += [f"{system}/executor_execution/{execution_id}", f"{system}/stateful_working_dir"]
        for path in left:
            if fileio.exists(path):
                fileio.rmtree(path)

    def _explain(self, error: Exception) -> str:
        self._folder.write_error(error)
        message = user_error_in(error)
        if message is not None:
            return message
        text = str(error).strip()
        line = f"{type(error).__name__}: {text.splitlines()[-1]}" if text else type(error).__name__
        advice = (
            "Run again when it is mended: the components that have finished are taken from the cache. "
            f"The full traceback is in {self._folder.error_file}"
        )
        if "No space left on device" in text:
            advice = f"The disk is full: make room for {self._folder.root}. {advice}"
        return f"{line}\n{advice}"


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Has Ctrl-C end the block with KeyboardInterrupt, though TensorFlow and Beam turn it into errors of their own."""
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # signals reach the main thread only
        yield
        return
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _with_upstream(nodes: list[pipeline_pb2.PipelineNode], names: Collection[str]) -> list[pipeline_pb2.PipelineNode]:
    """The named nodes and all that they need, in the order of the pipeline."""
    needed = set(names)
    for node in reversed(nodes):
        if node.node_info.id in needed:
            needed.update(node.upstream_nodes)
    return [node for node in nodes if node.node_info.id in needed]


def user_error_in(error: BaseException) -> str | None:
    """The message of the UserError that an error is, comes from, or quotes as Beam's errors do; None without one."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, UserError):
            return re.sub(r" \[while running '[^']*'\]$", "", str(link))
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    # Beam hands the errors of its workers on as text: a RuntimeError with their tracebacks.
    names = "|".join(sorted(_names_of(UserError)))
    quoted = re.search(
        rf"^(?:[\w.]+\.)?(?:{names}): (.*?)(?= \[while running '|\n\s*\n(?:During handling|The above exception)|\s*\Z)",
        str(error),
        flags=re.DOTALL | re.MULTILINE,
    )
    return quoted[1] if quoted else None


def _names_of(cls: type[UserError]) -> set[str]:
    names = {cls.__name__}
    for subclass in cls.__subclasses__():
        names |= _names_of(subclass)
    return names
