"""Which days, files and instants a run reads."""

from __future__ import annotations

import glob
import hashlib
import os
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from components.log_example_gen.config import AttributionConfig, LogsConfig, Window, WindowConfig
from components.log_example_gen.local_days import day_numbers
from components.log_example_gen.paths import PathPattern
from components.log_example_gen.reading import UnreadableFile, has_rows
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
      day: day in its path.
      size: bytes.
      mtime_ns: time of the last change, ns since 1970.
      hour: hour in its path; None in that of a day.
    """

    log: str
    path: str
    relative: str
    day: date
    size: int
    mtime_ns: int
    hour: int | None = None


def resolve_window(logs: LogsConfig, attribution: AttributionConfig, window: WindowConfig) -> Window:
    """Turns the configured window into days, by looking at the folders that are there.

    'latest' is the last day whose labels are final by the end of the data, which is the end of the
    last day, or hour, with files in the exposure log.

    Raises:
      UserError: if a day of the window lacks files or rows, naming the day and the pattern.
    """
    found = {(file.day, file.hour) for file in _match(logs, EXPOSURES, None)}
    days = sorted({day for day, _ in found})
    pattern = _pattern(logs, EXPOSURES)
    if not days:
        raise UserError(f"exposures: no file matches '{pattern}'")
    last_hour = max((hour for day, hour in found if day == days[-1] and hour is not None), default=None)
    data_end = day_start_ms(logs, days[-1] + _DAY)
    if last_hour is not None:
        data_end = max((end for hour, end in _hours(logs, days[-1]).items() if hour <= last_hour), default=data_end)
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

    These are the folders from before the first day (causes of the events seen on it) to after the last
    day (late events), as far as the attribution looks and folders exist.

    Raises:
      UserError: if a log has no file for a day of the window, or for an hour where that may not be, if a day of
        the window has no exposure at all, or if a log has no row at all.
    """
    first, last = folders_of(logs, attribution, window.first_day, window.last_day)
    needed = _days(window.first_day, window.last_day)
    files: list[LogFile] = []
    for log in (EXPOSURES, *logs.events):
        by_day = {day: list(_match(logs, log, day)) for day in _days(first, last)}
        missing = [day for day in needed if not by_day[day]]
        if missing:
            more = f" (and {len(missing) - 1} more days)" if len(missing) > 1 else ""
            raise UserError(f"{log}: no file for {missing[0]}{more}: none matches '{_pattern(logs, log, missing[0])}'")
        _check_hours(logs, log, {day: by_day[day] for day in needed})
        if log == EXPOSURES:
            empty = [day for day in needed if not any(_has_rows(logs, f) for f in by_day[day])]
            if empty:
                raise UserError(f"{log}: the log of {empty[0]} is empty: no row in '{_pattern(logs, log, empty[0])}'")
        elif not any(_has_rows(logs, f) for day in needed for f in by_day[day]):
            raise UserError(
                f"{log}: the log is empty from {window.first_day} to {window.last_day}: "
                f"no row in '{_pattern(logs, log)}'"
            )
        files += [f for day in sorted(by_day) for f in by_day[day]]
    return tuple(files)


def exposure_files(logs: LogsConfig, day: date | None = None) -> tuple[LogFile, ...]:
    """Files of the exposure log of a day, or of all days; none if there are none."""
    return tuple(_match(logs, EXPOSURES, day))


def folders_of(logs: LogsConfig, attribution: AttributionConfig, first: date, last: date) -> tuple[date, date]:
    """First and last day of the folders that can hold rows of some days or what decides about them."""
    instants = [
        day_start_ms(logs, first) - _ms(attribution.look_back),
        day_start_ms(logs, last + _DAY) + _ms(attribution.look_ahead) - 1,
    ]
    begin, end = (date.fromordinal(number) for number in day_numbers(np.array(instants), logs.timezone).tolist())
    return begin, end + logs.lateness_days * _DAY


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


def _has_rows(logs: LogsConfig, file: LogFile) -> bool:
    try:
        return has_rows(file.path, _log(logs, file.log).format)
    except UnreadableFile:
        if logs.unreadable_files == "stop":
            raise
        return False


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _days(first: date, last: date) -> list[date]:
    return [first + i * _DAY for i in range((last - first).days + 1)]


def _hours(logs: LogsConfig, day: date) -> dict[int, int]:
    """The hours that a clock of logs.timezone shows on a day, with the time at which each ends (epoch ms).

    A day on which clocks change lacks an hour or has one twice, which is one here, as it is in the paths.
    """
    zone = zoneinfo.ZoneInfo(logs.timezone)
    quarter = 900_000
    starts = range(day_start_ms(logs, day), day_start_ms(logs, day + _DAY), quarter)
    return {datetime.fromtimestamp(start / 1000, zone).hour: start + quarter for start in starts}


def _check_hours(logs: LogsConfig, log: str, by_day: Mapping[date, Iterable[LogFile]]) -> None:
    config = _log(logs, log)
    if config.missing_hours == "allow" or not PathPattern(config.path).hourly:
        return
    missing = [(day, hour) for day in by_day for hour in _hours(logs, day) if hour not in {f.hour for f in by_day[day]}]
    if missing:
        day, hour = missing[0]
        more = f" (and {len(missing) - 1} more hours)" if len(missing) > 1 else ""
        raise UserError(
            f"{log}: no file for hour {hour:02d} of {day}{more}: none matches '{_pattern(logs, log, day, hour)}'; "
            "missing_hours: allow, in the configuration of the log, lets a run go on without it"
        )


def _pattern(logs: LogsConfig, log: str, day: date | None = None, hour: int | None = None) -> str:
    path = _log(logs, log).path
    return os.path.join(logs.root, path if day is None else PathPattern(path).glob(day, hour))


def _match(logs: LogsConfig, log: str, day: date | None) -> Iterator[LogFile]:
    """Files of a day, or of all days, in the order of their paths; hidden ones (leading '.' or '_') are left out."""
    pattern = PathPattern(_log(logs, log).path)
    for path, size, mtime_ns in sorted(_list(logs.root, pattern.glob(day))):
        relative = path.removeprefix(logs.root.rstrip("/") + "/")
        found = pattern.match(relative)
        if found is None or path.rsplit("/", 1)[-1][0] in "._":
            continue
        file_day, hour = found
        yield LogFile(log=log, path=path, relative=relative, day=file_day, size=size, mtime_ns=mtime_ns, hour=hour)


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


def total_bytes(files: Iterable[LogFile]) -> int:
    return sum(file.size for file in files)
