"""Which versions are in memory: those with a label, loaded beside the others and swapped in when they are ready."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpc import StatusCode
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from models.section import UserError
from serving.model_repository import ModelRepository, Version
from serving.server.errors import code_of, invalid, not_found
from serving.server.loaded import LoadedModel, Servable

State = get_model_status_pb2.ModelVersionStatus
_RETRY_AFTER = 60.0  # seconds, as TF Serving does; sooner if the version's files change
_LOG = logging.getLogger(__name__)


@dataclass
class _Status:
    state: int
    error: str = ""
    code: StatusCode = StatusCode.OK
    files: tuple = ()
    tried: float = 0.0


class _Model:
    """The versions of one model in memory, their states, and the labels that requests may use."""

    def __init__(self, repository: ModelRepository):
        self.repository = repository
        self.available: dict[int, Servable] = {}
        self.labels: dict[str, int] = {}
        self.statuses: dict[int, _Status] = {}
        self.trouble = ""  # why the last look at the repository changed nothing


class ModelManager:
    """Follows the model repositories under a root.

    A model's labelled versions are in memory; of a model without labels, the newest version. A new version is
    loaded and warmed up beside the others before requests reach it, its label moves then, and a version that nobody
    wants is closed when its last request has ended. A version that cannot be loaded leaves those in service as
    they are. A request without version or label goes to the highest version in memory, as in TF Serving.

    Args:
      root: folder with a folder per model.
      load: makes a LoadedModel of a version's folder.
    """

    def __init__(self, root: str | Path, load: Callable[[Path], LoadedModel] = LoadedModel):
        self.root = Path(root)
        self._load = load
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()  # what is in service
        self._updating = threading.Lock()  # one update at a time
        self.reloads = 0
        self._freed = False  # whether a version was closed since memory was given back

    def update(self) -> None:
        """Brings what is in memory in line with the repositories."""
        with self._updating:
            for name in sorted(self._names()):
                if name not in self._models:
                    self._models[name] = _Model(ModelRepository(self.root, name))
                try:
                    self._update(name, self._models[name])
                    self._models[name].trouble = ""
                except UserError as error:  # such as a label file that is damaged
                    if self._models[name].trouble != str(error):  # once, and not at every look
                        _LOG.error("model %s stays as it is: %s", name, error)
                    self._models[name].trouble = str(error)
            if self._freed:
                self._freed = False
                _give_memory_back()

    @contextlib.contextmanager
    def find(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """The version that a request asks for; it is not closed before the request ends.

        Raises:
          ServingError: if there is none.
        """
        servable = self._begin(spec)
        try:
            yield servable
        finally:
            servable.end()

    def _begin(self, spec: model_pb2.ModelSpec) -> Servable:
        with self._lock:
            model = self._models.get(spec.name)
            if not spec.name:
                raise invalid("ModelSpec has no name specified.")
            choice = spec.WhichOneof("version_choice")
            if choice == "version_label":
                version = model.labels.get(spec.version_label) if model else None
                if version is None:
                    raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            elif choice == "version":
                version = spec.version.value
            else:
                version = max(model.available, default=None) if model else None
            servable = model.available.get(version) if model and version is not None else None
            if servable is None:
                wanted = f"Specific({spec.name}, {spec.version.value})" if choice else f"Latest({spec.name})"
                raise not_found(f"Servable not found for request: {wanted}")
            servable.begin()  # within the lock, so that it cannot be closed in between
            return servable

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of the versions of a model, newest first.

        Raises:
          ServingError: if there are none.
        """
        with self._lock:
            model = self._models.get(spec.name)
            statuses = dict(model.statuses) if model else {}
            # As in TF Serving, a label does not count here.
            if spec.WhichOneof("version_choice") == "version":
                number = spec.version.value
                if number not in statuses:
                    raise not_found(f"Could not find version {number} of model {spec.name}")
                statuses = {number: statuses[number]}
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, status in sorted(statuses.items(), reverse=True):
            added = response.model_version_status.add(version=number, state=status.state)
            added.status.error_code = status.code.value[0]
            added.status.error_message = status.error
        return response

    def serving(self) -> dict[str, dict[str, int]]:
        """Labels by model, of the models with a version in memory; 'latest' is the highest version."""
        with self._lock:
            return {
                name: {"latest": max(model.available), **model.labels}
                for name, model in self._models.items()
                if model.available
            }

    def close(self) -> None:
        with self._updating:
            for model in self._models.values():
                self._keep(model, set())

    def _names(self) -> set[str]:
        try:
            folders = [p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        except FileNotFoundError:
            folders = []
        with_versions = {p.name for p in folders if ModelRepository(self.root, p.name).versions()}
        return with_versions | set(self._models)

    def _update(self, name: str, model: _Model) -> None:
        versions = {v.number: v for v in model.repository.versions()}
        labels = {str(label): number for label, number in model.repository.labels().items()}
        wanted = set(labels.values()) or set(sorted(versions)[-1:])
        for number in sorted(wanted - set(model.available)):
            version = versions.get(number, Version(number, model.repository.path / str(number)))
            self._start(name, model, version)
        with self._lock:
            # As in TF Serving, a label stays where it was until its new version is there.
            moved = {label: number for label, number in labels.items() if number in model.available}
            kept = {label: n for label, n in model.labels.items() if label in labels and label not in moved}
            model.labels = {**kept, **moved}
            needed = (wanted & set(model.available)) | set(model.labels.values())
        # Where nothing that is wanted is there, whatever serves goes on.
        if needed:
            self._keep(model, needed)

    def _start(self, name: str, model: _Model, version: Version) -> None:
        before = model.statuses.get(version.number)
        files = _files(version.path)
        if (
            before is not None
            and before.state == State.END
            and before.files == files
            and before.error
            and time.monotonic() - before.tried < _RETRY_AFTER
        ):
            return
        with self._lock:
            model.statuses[version.number] = _Status(State.LOADING)
        started = time.monotonic()
        try:
            loaded = self._load(version.path)
        except Exception as error:  # whatever it is, the versions in service go on
            _LOG.error("model %s, version %d was not loaded: %s", name, version.number, error)
            with self._lock:
                model.statuses[version.number] = _Status(State.END, str(error), code_of(error), files, time.monotonic())
            return
        with self._lock:
            model.available[version.number] = Servable(name, version.number, loaded)
            model.statuses[version.number] = _Status(State.AVAILABLE)
            self.reloads += 1
        _LOG.info("model %s, version %d is in service (%.1f s)", name, version.number, time.monotonic() - started)

    def _keep(self, model: _Model, needed: set[int]) -> None:
        with self._lock:
            over = [model.available.pop(number) for number in sorted(set(model.available) - needed)]
            for servable in over:
                model.statuses[servable.version] = _Status(State.UNLOADING)
        for servable in over:
            servable.release(functools.partial(self._ended, model, servable.version))

    def _ended(self, model: _Model, number: int) -> None:
        with self._lock:
            if number not in model.available:
                model.statuses[number] = _Status(State.END)
        self._freed = True


def _give_memory_back() -> None:
    """Frees what closed versions leave: graphs are cycles of objects, of which Python sees too little to hurry."""
    gc.collect()
    # glibc keeps what was freed in its arenas, which grow with every version that is loaded.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _files(folder: Path) -> tuple:
    """What changes when a version's files do."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.is_file())
