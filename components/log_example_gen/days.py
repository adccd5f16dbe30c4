"""Joined days: each is joined once, kept as a folder that is there whole or not at all, and used by every run.

    URI/forgotten.json                          users whose rows were deleted on request
    URI/stopped/                                report and rejected rows of the last run, if it had too many of these
    URI/CONFIGURATION/days/DAY/INPUTS/          examples of a day in files by the place of their hash; manifest.json
    URI/CONFIGURATION/files/DAY/FILE/           what was read from a log file: manifest.json and its rejected rows

CONFIGURATION is a digest of all that decides on examples but the data, INPUTS one of the files that can change the day,
FILE one of the file. So nothing is ever replaced by something else of the same name: two runs at once that join the
same day make the same folder, and the second one to finish drops its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from tfx.dsl.io import fileio

from components.log_example_gen.config import AttributionConfig, LogsConfig, SamplingConfig, Window
from components.log_example_gen.window import LogFile, day_start_ms, folders_of

MANIFEST = "manifest.json"
STOPPED_DIR = "stopped"

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class DayInputs:
    """What a joined day follows from, the configuration aside.

    Attributes:
      day: the day.
      files: the log files that can hold its rows or what decides about them.
      data_end_ms: end of the data, in so far as it decides on the day: later labels are not mature.
      forgotten: digest of the list of forgotten users.
      sampled: whether a sample of its examples is kept, for training.
    """

    day: date
    files: tuple[LogFile, ...]
    data_end_ms: int
    forgotten: str
    sampled: bool

    @property
    def digest(self) -> str:
        return _digest([self.data_end_ms, self.sampled, *(file_key(f) for f in self.files)])


def day_inputs(
    logs: LogsConfig,
    attribution: AttributionConfig,
    sampling: SamplingConfig,
    window: Window,
    files: Iterable[LogFile],
    forgotten: str,
) -> list[DayInputs]:
    """The inputs of each day of a window, among the files that the window reads.

    With sampling, a day to train on is another one than the same day to evaluate on.
    """
    maturity = attribution.maturity // timedelta(milliseconds=1)
    files = tuple(files)
    found = []
    for day in window.days:
        first, last = folders_of(logs, attribution, day, day)
        found.append(
            DayInputs(
                day=day,
                files=tuple(f for f in files if first <= f.day <= last),
                data_end_ms=min(window.data_end_ms, day_start_ms(logs, day + _DAY) + maturity),
                forgotten=forgotten,
                sampled=sampling.on and day < window.first_eval_day,
            )
        )
    return found


def file_key(file: LogFile) -> str:
    """Name of what is kept of a file; another one when the file changes."""
    return _digest([file.log, file.relative, file.size, file.mtime_ns])


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """First and last day of each run of days without a gap."""
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and found[-1][1] == day - _DAY:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


class JoinedDays:
    """The joined days of one configuration.

    Args:
      uri: folder of all joined days, on any file system that TFX knows.
      configuration: all that decides on examples but the data, as text.
    """

    def __init__(self, uri: str, configuration: Sequence[str]):
        self.uri = os.path.join(uri, _digest(list(configuration)))
        self._files: dict[str, dict[str, Any]] = {}

    def find(self, inputs: DayInputs) -> dict[str, Any] | None:
        """The manifest of a day, with its URI under 'uri', if the day was joined from these inputs."""
        found = read_folder(self._day(inputs), "shards")
        if found is None or found["forgotten"] != inputs.forgotten:
            return None
        return found if all(self.find_file(f) is not None for f in inputs.files) else None

    def find_file(self, file: LogFile) -> dict[str, Any] | None:
        """The manifest of what was read from a file, with its URI under 'uri'."""
        # Days share most of their files.
        key = file_key(file)
        if key not in self._files and (found := read_folder(self._file(file), "rejected")) is not None:
            self._files[key] = found
        return self._files.get(key)

    def put(self, inputs: DayInputs, folder: str, shards: Mapping[str, int], counts: Mapping[str, Any]) -> None:
        """Moves a folder with the examples of a day to its place.

        Args:
          inputs: what it was joined from.
          folder: the folder, on the same file system.
          shards: its files, with the number of examples of each.
          counts: counts of the day's rows.
        """
        write_manifest(
            folder,
            {
                "day": inputs.day.isoformat(),
                "data_end_ms": inputs.data_end_ms,
                "forgotten": inputs.forgotten,
                "files": [[f.log, f.relative, f.size, f.mtime_ns] for f in inputs.files],
                "shards": dict(sorted(shards.items())),
                "counts": counts,
            },
        )
        move_whole(folder, self._day(inputs), "shards", replace=self.find(inputs) is None)

    def put_file(self, file: LogFile, folder: str, rejected: Mapping[str, int], counts: Mapping[str, Any]) -> None:
        """Moves a folder with the rejected rows of a file to its place; arguments as for `put`."""
        write_manifest(folder, {"file": file.relative, "rejected": dict(sorted(rejected.items())), "counts": counts})
        move_whole(folder, self._file(file), "rejected", replace=False)

    def drop_superseded(self, inputs: Iterable[DayInputs]) -> None:
        """Removes what was joined from earlier states of the files."""
        inputs = list(inputs)
        for of_day in inputs:
            _keep(os.path.dirname(self._day(of_day)), {of_day.digest})
        # Files at the ends of the window matter to days outside of it as well, but under the same name.
        current = {f.day: set() for i in inputs for f in i.files}  # type: dict[date, set[str]]
        for file in {f for i in inputs for f in i.files}:
            current[file.day].add(file_key(file))
        for day, keys in current.items():
            _keep(os.path.join(self.uri, "files", day.isoformat()), keys)

    def _day(self, inputs: DayInputs) -> str:
        return os.path.join(self.uri, "days", inputs.day.isoformat(), inputs.digest)

    def _file(self, file: LogFile) -> str:
        return os.path.join(self.uri, "files", file.day.isoformat(), file_key(file))


def joined_folders(uri: str) -> Iterator[tuple[date, str]]:
    """All whole joined days, of every configuration: the day and the folder."""
    for configuration in _subfolders(uri):
        for day in _subfolders(os.path.join(configuration, "days")):
            for folder in _subfolders(day):
                if read_folder(folder, "shards") is not None:
                    yield date.fromisoformat(os.path.basename(day)), folder


def file_folders(uri: str) -> Iterator[str]:
    """The folders of what was read from log files, of every configuration."""
    for configuration in _subfolders(uri):
        for day in _subfolders(os.path.join(configuration, "files")):
            yield from (folder for folder in _subfolders(day) if read_folder(folder, "rejected") is not None)


def drop_older(uri: str, first_day: date, first_folder: date) -> list[date]:
    """Removes what is older of every configuration.

    Args:
      uri: folder of the joined days.
      first_day: the joined days before it are removed.
      first_folder: what was read from files of the days before it is removed.

    Returns:
      The days that were removed.
    """
    removed = set()
    for configuration in _subfolders(uri):
        for kind, first in (("days", first_day), ("files", first_folder)):
            for folder in _subfolders(os.path.join(configuration, kind)):
                day = date.fromisoformat(os.path.basename(folder))
                if day < first:
                    fileio.rmtree(folder)
                    removed |= {day} if kind == "days" else set()
    return sorted(removed)


def read_folder(folder: str, names: str) -> dict[str, Any] | None:
    """The manifest of a folder, with its URI under 'uri', if the files that it lists under `names` are all there."""
    path = os.path.join(folder, MANIFEST)
    if not fileio.exists(path):
        return None
    with fileio.open(path) as file:
        manifest = json.loads(file.read())
    return {**manifest, "uri": folder} if set(manifest[names]) <= set(fileio.listdir(folder)) else None


def write_manifest(folder: str, content: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder that is not in its place yet."""
    fileio.makedirs(folder)
    with fileio.open(os.path.join(folder, MANIFEST), "w") as file:
        file.write(json.dumps(content, ensure_ascii=False))


def move_whole(folder: str, place: str, names: str, replace: bool) -> None:
    """Moves a folder to its place, unless one is there that is whole and not to be replaced.

    A kill at any point leaves the place empty or with a folder that is whole: one move makes it. On an object store,
    where a move is many, the manifest tells: it does not count while a file that it lists is missing.
    """
    if read_folder(place, names) is not None and not replace:
        fileio.rmtree(folder)
        return
    aside = f"{place}.{uuid.uuid4().hex}"
    if fileio.exists(place):
        fileio.rename(place, aside)
    fileio.makedirs(os.path.dirname(place))
    try:
        fileio.rename(folder, place)
        if fileio.exists(aside):
            fileio.rmtree(aside)
    except Exception:
        # Another run was first.
        if read_folder(place, names) is None:
            raise
        with contextlib.suppress(Exception):
            fileio.rmtree(folder)


def link(source: str, target: str) -> None:
    """Gives a file a second name, or copies it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        fileio.copy(source, target)


def _keep(folder: str, names: Collection[str]) -> None:
    for path in _subfolders(folder):
        if os.path.basename(path) not in names:
            fileio.rmtree(path)


def _subfolders(folder: str) -> list[str]:
    if not fileio.isdir(folder):
        return []
    names = sorted(name.rstrip("/") for name in fileio.listdir(folder))
    return [path for name in names if fileio.isdir(path := os.path.join(folder, name))]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
