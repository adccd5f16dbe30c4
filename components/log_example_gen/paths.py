"""Paths with dates in them: which files belong to a day, and to an hour of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

_PLACE = re.compile(r"\{(date|hour)(?:(?<=date):([^{}]*))?\}")
_FORMS = {"date": "%Y-%m-%d", "hour": "%H"}
_WIDTHS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2}


@dataclass(frozen=True)
class PathPattern:
    """A path with places for the day, and maybe the hour, in the time zone of the logs.

    Attributes:
      text: as it is configured: '{date}' stands for YYYY-MM-DD, '{date:%Y%m%d}' for another form, '{hour}' for
        00 to 23; * and ? stand for any text and character of a name.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Checks a pattern.

        Raises:
          ValueError: saying what was expected.
        """
        if left := re.search(r"[{}][^{}]*[{}]?", _PLACE.sub("", text)):
            raise ValueError(f"expected {{date}}, {{hour}} or a form such as {{date:%Y%m%d}}, got '{left[0]}'")
        pattern = cls(text)
        directives = {directive for _, directive in pattern._pieces()}
        if unknown := sorted(directives - {"", *_WIDTHS}):
            raise ValueError(f"expected %Y, %m, %d or %H in a date, got '{unknown[0]}'")
        if not {"%Y", "%m", "%d"} <= directives:
            raise ValueError(
                "expected '{date}' where the day (YYYY-MM-DD) stands in the path, as in 'clicks/{date}/*.csv'"
            )
        return pattern

    @property
    def hourly(self) -> bool:
        """Whether each hour has files of its own."""
        return any(directive == "%H" for _, directive in self._pieces())

    def glob(self, day: date | None = None, hour: int | None = None) -> str:
        """The pattern of the files of a day or hour; of all, where it is None."""
        values = {directive: "?" * width for directive, width in _WIDTHS.items()} | {"": ""}
        if day is not None:
            values |= {"%Y": f"{day.year:04d}", "%m": f"{day.month:02d}", "%d": f"{day.day:02d}"}
        if hour is not None:
            values["%H"] = f"{hour:02d}"
        return "".join(literal + values[directive] for literal, directive in self._pieces())

    def match(self, path: str) -> tuple[date, int | None] | None:
        """Day and hour of a path; None if it does not fit."""
        expression = ""
        for literal, directive in self._pieces():
            expression += "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in literal)
            name = directive[1:]
            if f"(?P<{name}>" in expression:  # the same day again
                expression += f"(?P={name})"
            elif directive:
                expression += rf"(?P<{name}>\d{{{_WIDTHS[directive]}}})"
        found = re.fullmatch(expression, path)
        if found is None:
            return None
        values = {name: int(value) for name, value in found.groupdict().items()}
        hour = values.get("H")
        try:
            return (date(values["Y"], values["m"], values["d"]), hour) if (hour or 0) < 24 else None
        except ValueError:
            return None

    def _pieces(self) -> Iterator[tuple[str, str]]:
        """Text, and the directive that follows it, as of strftime; '' at the end of the text."""
        end = 0
        for place in _PLACE.finditer(self.text):
            before = self.text[end : place.start()]
            for literal, directive in re.findall(r"([^%]*)(%.|$)", place[2] or _FORMS[place[1]]):
                yield before + literal, directive
                before = ""
            end = place.end()
        yield self.text[end:], ""
