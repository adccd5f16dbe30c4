"""What a run tells while it runs: one row per component, live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

State = Literal["waiting", "running", "done", "cached", "failed", "stopped", "not run"]

_STYLES: dict[State, str] = {
    "waiting": "dim",
    "running": "bold yellow",
    "done": "green",
    "cached": "cyan",
    "failed": "bold red",
    "stopped": "bold red",
    "not run": "dim",
}
_ENDED: tuple[State, ...] = ("done", "cached", "failed", "stopped")


@dataclass(frozen=True)
class ComponentRun:
    """One component of a run.

    Attributes:
      name: id of the component in the pipeline.
      state: 'cached' means that an earlier run's outputs are used, 'stopped' that the user interrupted it.
      seconds: wall time, 0 where it has not run.
    """

    name: str
    state: State = "waiting"
    seconds: float = 0.0


class Reporter(Protocol):
    """Is told of every change of a component's state, in the order of the run."""

    def start(self, components: Sequence[str]) -> None:
        """The run begins; names in the order in which they will run."""

    def update(self, component: ComponentRun) -> None:
        """A component's state changed."""

    def finish(self) -> None:
        """The run is over, whatever its end."""


class Silent:
    """Reports nothing."""

    def start(self, components: Sequence[str]) -> None: ...

    def update(self, component: ComponentRun) -> None: ...

    def finish(self) -> None: ...


class PlainLines:
    """A line when a component starts and one when it ends, for logs and pipes."""

    def __init__(self, console: Console):
        self._console = console
        self._place: dict[str, int] = {}

    def start(self, components: Sequence[str]) -> None:
        self._place = {name: i for i, name in enumerate(components, 1)}

    def update(self, component: ComponentRun) -> None:
        place = f"[{self._place[component.name]:>2}/{len(self._place)}]"
        seconds = f" {component.seconds:6.1f} s" if component.state in _ENDED else ""
        line = f"{place} {component.name:<24} {component.state:<8}{seconds}".rstrip()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None: ...


@dataclass
class LiveTable:
    """A table that is redrawn in place, for terminals."""

    console: Console
    _rows: dict[str, ComponentRun] = field(default_factory=dict)
    _since: float = 0.0
    _live: Live | None = None

    def start(self, components: Sequence[str]) -> None:
        self._rows = {name: ComponentRun(name) for name in components}
        self._live = Live(
            get_renderable=self._table,
            console=self.console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def update(self, component: ComponentRun) -> None:
        self._rows[component.name] = component
        if component.state == "running":
            self._since = time.monotonic()
        if self._live:
            self._live.refresh()

    def finish(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("component", min_width=20, no_wrap=True)
        table.add_column("state", min_width=8, no_wrap=True)
        table.add_column("seconds", justify="right", min_width=8, no_wrap=True)
        for row in self._rows.values():
            if row.state == "running":
                row = replace(row, seconds=time.monotonic() - self._since)
            seconds = f"{row.seconds:.1f}" if row.state in ("running", *_ENDED) else ""
            table.add_row(row.name, Text(row.state, style=_STYLES[row.state]), seconds)
        return table


def reporter_for(console: Console, *, live: bool = True) -> Reporter:
    """A live table where the console is a terminal, plain lines where it is not, or where other lines come between."""
    return LiveTable(console) if live and console.is_terminal else PlainLines(console)


def say(console: Console, name: str, text: str, width: int = 16) -> None:
    """Prints a named value, the name in `width` columns. Long ones are not broken, so that paths can be copied."""
    console.print(Text.assemble((f"{name:<{width}} ", "dim"), text), soft_wrap=True)


def days_text(first: date, last: date) -> str:
    """A range of days, both included."""
    return str(first) if first == last else f"{first} to {last}"
