"""The model repository: versions as TF Serving reads them, and the labels that say which of them serves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from models.section import UserError

Label = Literal["stable", "candidate", "previous"]
LABELS: tuple[Label, ...] = ("stable", "candidate", "previous")

ASSETS = "assets.extra/seesaw/published"
"""Folder inside a version with what publishing adds to a SavedModel; TF Serving does not look into it."""

_DETAILS = f"{ASSETS}/version.json"
_LABELS_FILE = "labels.json"
_CANARY = "canary"
_HISTORY_FILE = "history.jsonl"
_LOCK_FILE = ".lock"
_ASIDE = ".publish-"  # not an integer, so TF Serving does not take it for a version
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ServiceChanged(UserError):
    """The version in service is not the one that a promotion was decided against.

    Attributes:
      stable: number of the version in service now, None without any.
    """

    def __init__(self, message: str, stable: int | None):
        super().__init__(message)
        self.stable = stable


@dataclass(frozen=True)
class Version:
    """A version in the repository: its number and the folder with its SavedModel."""

    number: int
    path: Path

    @property
    def details(self) -> dict[str, Any]:
        """What `publish` noted: source, time, reason, metadata; empty for a version copied in by hand."""
        try:
            return json.loads((self.path / _DETAILS).read_text())
        except FileNotFoundError:
            return {}


class ModelRepository:
    """`<root>/<model>/`: one folder per version, `labels.json` and `history.jsonl`.

    Versions are integers that grow. A version is written aside, flushed to disk and renamed, so it
    appears whole or not at all. Labels change by the rename of a whole file. Writers take turns by a
    file lock, which the kernel lets go when its holder dies; whoever takes it next clears away what a
    killed writer left. So a kill at any moment leaves the labels as they were or as they were to be.

    Every change of labels is a line of `history.jsonl`: when, which version, why, the labels after it.

    Args:
      root: folder of the repository, on a mounted file system; it may hold several models.
      model: name of the model.

    Raises:
      UserError: if root is a bucket's address or model is not the name of a folder.
    """

    def __init__(self, root: str | Path, model: str):
        if "://" in str(root):
            raise UserError(f"model repository: expected a folder of a mounted file system, got '{root}'")
        if not model or "/" in model or model.startswith("."):
            raise UserError(f"model repository: expected a model name without '/' and leading '.', got '{model}'")
        self.model = model
        self.path = Path(root).absolute() / model

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return ()
        return tuple(Version(n, self.path / str(n)) for n in sorted(int(name) for name in names if _is_number(name)))

    def labels(self) -> dict[Label, int]:
        """Which version each label stands for; labels that stand for none are left out."""
        document = self._read_labels()
        return {label: document[label] for label in LABELS if document.get(label) is not None}

    def labelled(self, label: Label) -> Version | None:
        """The version with this label.

        Raises:
          UserError: if the label names a version that is not there.
        """
        number = self.labels().get(label)
        if number is None:
            return None
        version = Version(number, self.path / str(number))
        if not version.path.is_dir():
            raise UserError(f"{self.path / _LABELS_FILE}: '{label}' is version {number}, but {version.path} is missing")
        return version

    def canary(self) -> float:
        """Share of the traffic that is to go to the candidate; 0 without one."""
        document = self._read_labels()
        return document.get(_CANARY, 0.0) if document.get("candidate") is not None else 0.0

    def stable(self) -> Version | None:
        """The version in service, None before the first promotion."""
        return self.labelled("stable")

    def history(self) -> list[dict[str, Any]]:
        """All changes of labels, oldest first: sequence, time, action, version, reason, labels."""
        try:
            lines = (self.path / _HISTORY_FILE).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def publish(
        self,
        saved_model: str | Path,
        *,
        reason: str,
        source: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        extra: Mapping[str, str | Path] | None = None,
        beside: str | Path | None = None,
    ) -> int:
        """Adds a SavedModel as the next version and labels it `candidate`.

        Publishing what is there already gives the version it has, and no second one; a version that is
        in service, or was before, keeps its labels then.

        Args:
          saved_model: folder with saved_model.pb.
          reason: why, for the history.
          source: what makes two publications the same; the hash of the folder's content by default.
          metadata: JSON values to keep with the version.
          extra: files to add under `assets.extra/seesaw/published/`: relative path there to file.
          beside: folder with files that a server reads beside the SavedModel, in the places that they have there,
            such as assets.extra/tf_serving_warmup_requests.

        Returns:
          Number of the version.

        Raises:
          UserError: if saved_model is not a SavedModel, or the disk is full. The labels are as before.
        """
        saved_model = Path(saved_model)
        if not (saved_model / "saved_model.pb").is_file():
            raise UserError(f"expected a SavedModel, found no saved_model.pb in {saved_model}")
        source = source or content_hash(saved_model)
        details = {"source": source, "time": _now(), "reason": reason, "metadata": dict(metadata or {})}
        with self._told_when_full(f"publishing {saved_model}"):
            with self._locked():
                known = self._find(source)
                if known is not None:
                    return self._as_candidate(known, reason)
                aside, claim = self._write_aside()
            try:
                _copy_durably(saved_model, aside, skip=ASSETS)
                for relative, file in (extra or {}).items():
                    _copy_file_durably(Path(file), aside / ASSETS / relative)
                if beside is not None:
                    _copy_durably(Path(beside), aside, skip=ASSETS)
                _write_durably(aside / _DETAILS, json.dumps(details, indent=1, sort_keys=True) + "\n")
                for folder, _, _ in os.walk(aside):
                    _flush(folder)
                with self._locked():
                    known = self._find(source)  # another run may have published the same in the meantime
                    if known is not None:
                        return self._as_candidate(known, reason)
                    return self._as_candidate(self._next_number(), reason, aside)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
                os.close(claim)

    def promote(self, version: int, reason: str, *, replacing: int | Literal["any"] | None = "any") -> bool:
        """Makes a version `stable`; the one that was becomes `previous`.

        Args:
          version: number of a version that is there.
          reason: why, for the history.
          replacing: the version in service that the decision was made against, None for none: if it is
            another by now, nothing changes. 'any' does not look.

        Returns:
          False if the version was in service already.

        Raises:
          ServiceChanged: if the version in service is not `replacing`.
          UserError: if there is no such version, or the disk is full.
        """
        with self._told_when_full(f"promoting version {version}"), self._locked():
            labels = self.labels()
            stable = labels.get("stable")
            if stable == version:
                return False
            if version not in [v.number for v in self.versions()]:
                raise UserError(f"{self.path} has no version {version}; it has {[v.number for v in self.versions()]}")
            if replacing != "any" and stable != replacing:
                raise ServiceChanged(
                    f"the model in service changed: expected {_name(replacing)}, found {_name(stable)}", stable
                )
            labels["stable"] = version
            labels.pop("previous", None)
            if stable is not None:
                labels["previous"] = stable
            if labels.get("candidate") == version:
                del labels["candidate"]
            self._relabel(labels, "promote", version, reason)
            return True

    def rollback(self, reason: str) -> tuple[int, int]:
        """Puts the version that was `stable` before back in service.

        The version that goes out of service becomes `previous`, so a second rollback takes the first one back.

        Returns:
          The version that went out of service and the one that is in service now.

        Raises:
          UserError: if there is none to go back to, or its folder is gone.
        """
        with self._told_when_full("rolling back"), self._locked():
            labels = self.labels()
            stable, previous = labels.get("stable"), labels.get("previous")
            if stable is None or previous is None:
                raise UserError(f"{self.path}: expected a version labelled 'previous' to go back to, found none")
            if previous not in [v.number for v in self.versions()]:
                raise UserError(f"{self.path}: version {previous}, which was in service before, is gone")
            labels["stable"], labels["previous"] = previous, stable
            if labels.get("candidate") == previous:
                del labels["candidate"]
            self._relabel(labels, "rollback", previous, reason)
            return stable, previous

    def set_canary(self, share: float, reason: str) -> int:
        """Says what share of the traffic is to go to the candidate; the next change of the candidate takes it back.

        TF Serving splits no traffic, and neither does the embedded server: clients do, by this number.

        Args:
          share: from 0 to 1.
          reason: why, for the history.

        Returns:
          Number of the candidate.

        Raises:
          UserError: if share is none, there is no candidate, or the disk is full.
        """
        if not 0 <= share <= 1:
            raise UserError(f"canary: expected a share from 0 to 1, got {share:g}")
        with self._told_when_full("setting the canary's share"), self._locked():
            labels = self.labels()
            candidate = labels.get("candidate")
            if candidate is None:
                raise UserError(f"{self.path}: expected a version labelled 'candidate', found none")
            self._relabel(labels, "canary", candidate, reason, canary=share)
            return candidate

    def collect_garbage(self, keep: int) -> tuple[int, ...]:
        """Removes versions without a label but for the newest `keep` of them.

        A version is renamed before its files go, so that no server reads one that is half there.

        Returns:
          The versions that were removed, oldest first.

        Raises:
          UserError: if keep is negative.
        """
        if keep < 0:
            raise UserError(f"keep: expected at least 0 versions, got {keep}")
        with self._locked():
            labelled = set(self.labels().values())
            free = [v for v in self.versions() if v.number not in labelled]
            removed = free[: len(free) - keep] if keep < len(free) else []
            for version in removed:
                aside = self.path / f"{_ASIDE}{version.number}-{secrets.token_hex(4)}"
                os.rename(version.path, aside)
                _flush(self.path)
                shutil.rmtree(aside)
            return tuple(v.number for v in removed)

    # What follows is called with the lock held, but for the lock itself.

    def _as_candidate(self, number: int, reason: str, aside: Path | None = None) -> int:
        labels = self.labels()
        if number not in labels.values():
            labels["candidate"] = number
            self._relabel(labels, "publish", number, reason, aside)
        return number

    def _relabel(
        self,
        labels: Mapping[Label, int],
        action: str,
        version: int,
        reason: str,
        aside: Path | None = None,
        canary: float | None = None,
    ) -> None:
        """Moves the labels, after the version that is written aside, if any, has got its place."""
        before = self._read_labels()
        if canary is None and before.get("candidate") == labels.get("candidate"):
            canary = before.get(_CANARY)
        change = {
            "sequence": before.get("change", {}).get("sequence", 0) + 1,
            "time": _now(),
            "action": action,
            "version": version,
            "reason": reason,
        }
        document: dict[str, Any] = {str(label): of for label, of in labels.items()} | {"change": change}
        if canary:
            document[_CANARY] = canary
        temporary = self.path / f".{_LABELS_FILE}"
        try:
            # All that needs space comes first: a full disk leaves no version without its label.
            _write_durably(temporary, json.dumps(document, indent=1) + "\n")
            if aside is not None:
                os.rename(aside, self.path / str(version))
                _flush(self.path)
            os.replace(temporary, self.path / _LABELS_FILE)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _flush(self.path)
        try:
            self._complete_history()
        except OSError as error:
            # The labels have moved, and carry the change: the next writer adds it to the history.
            if error.errno not in _FULL:
                raise

    def _complete_history(self) -> None:
        """Adds the last change of labels where a killed writer did not come to it, and cuts off half a line."""
        document = self._read_labels()
        if not document:
            return
        change = document["change"]
        path = self.path / _HISTORY_FILE
        history = self.history()
        whole = 0
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole == len(content) and history and history[-1]["sequence"] >= change["sequence"]:
                return
        with open(path, "ab") as file:
            file.truncate(whole)
            if not history or history[-1]["sequence"] < change["sequence"]:
                file.write((json.dumps({**change, "labels": self.labels(), **_share(document)}) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        _flush(self.path)

    def _next_number(self) -> int:
        """One more than any version has had, so that no number is used again after a version was removed."""
        used = [v.number for v in self.versions()] + [change["version"] for change in self.history()]
        return max(used, default=0) + 1

    def _find(self, source: str) -> int | None:
        return next((v.number for v in self.versions() if v.details.get("source") == source), None)

    def _write_aside(self) -> tuple[Path, int]:
        """A new folder to write a version into, and the file descriptor whose lock says that it is in use."""
        aside = self.path / f"{_ASIDE}{secrets.token_hex(8)}"
        aside.mkdir()
        return aside, _claim(aside)

    def _clear_leftovers(self) -> None:
        for aside in self.path.glob(f"{_ASIDE}*"):
            try:
                claim = _claim(aside)
            except BlockingIOError:
                continue  # its writer lives
            shutil.rmtree(aside)
            os.close(claim)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / _LOCK_FILE, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._clear_leftovers()
            self._complete_history()
            yield

    @contextlib.contextmanager
    def _told_when_full(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"{self.path}: no space left on the disk while {doing}; the model in service is as it was. "
                f"Free some space and run again."
            ) from error

    def _read_labels(self) -> dict[str, Any]:
        path = self.path / _LABELS_FILE
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path}: expected JSON, got {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("change"), dict):
            raise UserError(f"{path}: expected an object with labels and 'change', got {str(document)[:80]}")
        for label in LABELS:
            if not isinstance(document.get(label), (int, type(None))):
                raise UserError(f"{path}: '{label}': expected the number of a version, got {document[label]!r}")
        canary = document.get(_CANARY, 0.0)
        if not isinstance(canary, (int, float)) or not 0 <= canary <= 1:
            raise UserError(f"{path}: '{_CANARY}': expected a share from 0 to 1, got {canary!r}")
        return document


def content_hash(saved_model: str | Path) -> str:
    """SHA-256 over names and contents of a SavedModel's files, without those that publishing adds."""
    total = hashlib.sha256()
    for relative in _files(Path(saved_model), skip=ASSETS):
        digest = hashlib.sha256()
        with open(Path(saved_model) / relative, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        total.update(f"{relative.as_posix()}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def _files(folder: Path, skip: str) -> list[Path]:
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in relative if Path(skip) not in path.parents)


def _copy_durably(source: Path, target: Path, skip: str) -> None:
    # TF Serving and TensorFlow expect these folders even when they are empty.
    for folder in ("variables", "assets"):
        if (source / folder).is_dir():
            (target / folder).mkdir(exist_ok=True)
    for relative in _files(source, skip):
        _copy_file_durably(source / relative, target / relative)


def _copy_file_durably(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
        writer.flush()
        os.fsync(writer.fileno())


def _write_durably(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: str | Path) -> None:
    """Makes the names in a folder durable; the content of its files is flushed as they are written."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _share(document: Mapping[str, Any]) -> dict[str, float]:
    return {_CANARY: document[_CANARY]} if _CANARY in document else {}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def _name(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
