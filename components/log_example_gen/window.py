"""Which days, files and instants a run reads."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import zoneinfo
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from components.log_example_gen.config import AttributionConfig, LogsConfig, Window, WindowConfig
from components.log_example_gen.reading import has_rows
from models.section import UserError

EXPOSURES = "exposures"
"""Name of the exposure log among the logs; the others go by the name of their event."""

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class LogFile:
    """A file of a log.

    Attributes:
      log: name of the log, 'exposures' or that of the event.
      path: full path.
      relative: path under logs.root.
      day: day of the folder in which it lies.
      size: bytes.
      mtime_ns: time of the last change, ns since 1970.
    """

    log: str
    path: str
    relative: str
    day: date
    size: int
    mtime_ns: int


def resolve_window(logs: LogsConfig, attribution: AttributionConfig, window: WindowConfig) -> Window:
    """Turns the configured window into days, by looking at the folders that are there.

    'latest' is the last day whose labels are final by the end of the data, which is the end of the
    last day with files in the exposure log.

    Raises:
      UserError: if a day of the window lacks files or rows, naming the day and the pattern.
    """
    days = sorted({file.day for file in _match(logs, EXPOSURES, None)})
    pattern = _pattern(logs, EXPOSURES)
    if not days:
        raise UserError(f"exposures: no file matches '{pattern}'")
    data_end = day_start_ms(logs, days[-1] + _DAY)
    maturity = _ms(attribution.maturity)
    if window.last_day == "latest":
        last_day = next((d for d in reversed(days) if day_start_ms(logs, d + _DAY) + maturity <= data_end), None)
        if last_day is None:
            raise UserError(
                f"window.last_day: no day has final labels: they take {attribution.maturity} after the end of a day, "
                f"and the exposures end with {days[-1]} ('{pattern}')"
            )
    else:
        last_day = window.last_day
    first_eval_day = last_day - (window.eval_days - 1) * _DAY
    first_day = first_eval_day - window.train_days * _DAY
    if first_day < days[0]:
        missing = min(first_eval_day, days[0]) - _DAY
        raise UserError(
            f"exposures: {window.train_days} training and {window.eval_days} evaluation days up to {last_day} begin on "
            f"{first_day}, but there is no file for {missing}: '{_pattern(logs, EXPOSURES, missing)}'"
        )
    resolved = Window(
        first_day=first_day,
        first_eval_day=first_eval_day,
        last_day=last_day,
        # Data beyond the last label's time changes nothing, and must not change the cache key either.
        data_end_ms=min(data_end, day_start_ms(logs, last_day + _DAY) + maturity),
    )
    input_files(logs, attribution, resolved)
    return resolved


def input_files(logs: LogsConfig, attribution: AttributionConfig, window: Window) -> tuple[LogFile, ...]:
    """Files of all logs that can hold rows of the window or what decides about them.

    These are the folders from the maturity before the first day (causes of the events seen on it) to
    the maturity and the lateness after the last day (late events), as far as they exist.

    Raises:
      UserError: if a log has no file for a day of the window, if a day of the window has no
        exposure at all, or if a log has no row at all.
    """
    margin = math.ceil(attribution.maturity / _DAY)
    first = window.first_day - margin * _DAY
    last = window.last_day + (margin + logs.lateness_days) * _DAY
    needed = _days(window.first_day, window.last_day)
    files: list[LogFile] = []
    for log in (EXPOSURES, *logs.events):
        by_day = {day: list(_match(logs, log, day)) for day in _days(first, last)}
        missing = [day for day in needed if not by_day[day]]
        if missing:
            more = f" (and {len(missing) - 1} more days)" if len(missing) > 1 else ""
            raise UserError(f"{log}: no file for {missing[0]}{more}: none matches '{_pattern(logs, log, missing[0])}'")
        form = _log(logs, log).format
        if log == EXPOSURES:
            empty = [day for day in needed if not any(has_rows(f.path, form) for f in by_day[day])]
            if empty:
                raise UserError(f"{log}: the log of {empty[0]} is empty: no row in '{_pattern(logs, log, empty[0])}'")
        elif not any(has_rows(f.path, form) for day in needed for f in by_day[day]):
            raise UserError(
                f"{log}: the log is empty from {window.first_day} to {window.last_day}: "
                f"no row in '{_pattern(logs, log)}'"
            )
        files += [f for day in sorted(by_day) for f in by_day[day]]
    return tuple(files)


def inputs_fingerprint(logs: LogsConfig, attribution: AttributionConfig, window: Window) -> str:
    """Digest of the files that a run on this window reads: relative path, size and time of change of each."""
    digest = hashlib.sha256()
    for file in input_files(logs, attribution, window):
        digest.update(f"{file.log}\0{file.relative}\0{file.size}\0{file.mtime_ns}\n".encode())
    return digest.hexdigest()


def day_start_ms(logs: LogsConfig, day: date) -> int:
    """Epoch ms at which a day begins in logs.timezone."""
    start = datetime(day.year, day.month, day.day, tzinfo=zoneinfo.ZoneInfo(logs.timezone))
    return round(start.timestamp() * 1000)


def _log(logs: LogsConfig, log: str):
    return logs.exposures if log == EXPOSURES else logs.events[log]


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _days(first: date, last: date) -> list[date]:
    return [first + i * _DAY for i in range((last - first).days + 1)]


def _pattern(logs: LogsConfig, log: str, day: date | None = None) -> str:
    pattern = os.path.join(logs.root, _log(logs, log).path)
    return pattern if day is None else pattern.replace("{date}", day.isoformat())


def _match(logs: LogsConfig, log: str, day: date | None) -> Iterator[LogFile]:
    """Files of a day, or of all days, in the order of their paths; hidden ones (leading '.' or '_') are left out."""
    pattern = _pattern(logs, log)
    place = "????-??-??" if day is None else day.isoformat()
    for path, size, mtime_ns in sorted(_list(logs.root, _log(logs, log).path.replace("{date}", place))):
        file_day = day or _day_of(path, pattern)
        if file_day is None or path.rsplit("/", 1)[-1][0] in "._":
            continue
        relative = path.removeprefix(logs.root.rstrip("/") + "/")
        yield LogFile(log=log, path=path, relative=relative, day=file_day, size=size, mtime_ns=mtime_ns)


def _list(root: str, pattern: str) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of change of the files that match a pattern under the root."""
    if "://" not in root:
        # Beam would walk all that lies under the root, and not follow links.
        for path in glob.iglob(os.path.join(glob.escape(root), pattern)):
            if os.path.isfile(path):
                stat = os.stat(path)
                yield path, stat.st_size, stat.st_mtime_ns
        return
    try:
        (found,) = FileSystems.match([os.path.join(root, pattern)])
    except (BeamIOError, ValueError) as error:
        raise UserError(f"cannot list '{os.path.join(root, pattern)}': {error}") from error
    for metadata in found.metadata_list:
        yield metadata.path, metadata.size_in_bytes, round(metadata.last_updated_in_seconds * 1e9)


def _day_of(path: str, pattern: str) -> date | None:
    pieces = ["".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in p) for p in pattern.split("{date}")]
    expression = pieces[0] + r"(\d{4}-\d{2}-\d{2})" + r"\1".join(pieces[1:])
    match = re.fullmatch(expression, path)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def total_bytes(files: Iterable[LogFile]) -> int:
    return sum(file.size for file in files)
