"""The base of every configuration section, and the JSON in which sections cross processes."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

SectionT = TypeVar("SectionT", bound="Section")


class UserError(ValueError):
    """Something in the user's hands is wrong; its text is all that they need, without a stack trace."""


def parse_duration(value: Any) -> timedelta:
    """Reads '90s', '30m', '12h', '3d' or '250ms'.

    Raises:
      ValueError: for anything else.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("expected a duration such as '90s', '30m', '12h' or '3d'")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def format_duration(value: timedelta) -> str:
    return f"{round(value / timedelta(milliseconds=1))}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d+\s*(ms|s|m|h|d)$"}),
]


class Section(BaseModel):
    """A frozen piece of configuration that refuses unknown keys.

    Sections are read from JSON (`model_validate_json`) and not from Python objects: strict JSON
    validation refuses '5' for 5, and still takes lists for tuples and strings for dates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def canonical_json(self) -> str:
        """The one JSON text of this section: defaults written out, no white space.

        Fields stand in the order of their definition and mappings in the order given, because the order of
        `logs.events` is the funnel's.
        """
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))

    @classmethod
    def from_json(cls: type[SectionT], text: str) -> SectionT:
        return cls.model_validate_json(text)
