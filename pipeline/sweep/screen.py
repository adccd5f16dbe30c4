"""What a sweep tells while it runs and at its end, on the screen."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.progress import say
from pipeline.sweep.crew import Progress
from pipeline.sweep.run import Sweep
from pipeline.sweep.words import headline, signed


class Teller:
    """Shows a bar on a terminal, and a line per training elsewhere; failures have a line in both. A context manager."""

    def __init__(self, console: Console, *, live: bool = True):
        self._console = console
        self._bar: Bar | None = None
        if live and console.is_terminal:
            columns = (TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task("", total=None, left="")

    def __enter__(self) -> Teller:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def tell(self, progress: Progress) -> None:
        ended = progress.done + progress.failed
        left = "" if progress.left is None else f"about {_duration(progress.left)} left"
        if progress.error is not None:
            self._console.print(f"failed: {progress.last}: {progress.error}", markup=False, soft_wrap=True)
        if self._bar:
            self._bar.update(self._task, completed=ended, total=progress.total, left=left)
        elif progress.last is None:
            self._console.print(f"{progress.done} of {progress.total} trainings are there", soft_wrap=True)
        elif progress.error is None:
            line = f"[{ended:>{len(str(progress.total))}}/{progress.total}] {progress.last:<52} {left}"
            self._console.print(line.rstrip(), markup=False, soft_wrap=True)


def render(found: Sweep, page: Path, console: Console) -> None:
    """Prints a table of the points, the recommendation, and where the page is."""
    # Narrow, because a log file or a pipe has 80 columns.
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("  model", no_wrap=True)
    table.add_column("balancer", no_wrap=True)
    for task in found.objectives:
        table.add_column(task, justify="right", no_wrap=True)
        table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("ms/step", justify="right", no_wrap=True)
    for point in sorted(found.points, key=lambda p: (p.kind == "single", p.model)):
        cells = [("* " if point.on_front else "  ") + point.model, point.balancer]
        for task in found.objectives:
            cells.append(f"{point.auc[task]:.4f}" if task in point.auc else "")
            gain = (point.to_single or {}).get(task)
            style = "red" if gain and gain.high < 0 else "green" if gain and gain.low > 0 else ""
            text = signed(gain.value) if gain else ""
            cells.append(f"[{style}]{text}[/{style}]" if style else text)
        cells.append(f"{point.step_ms:.1f}" if point.step_ms is not None else "")
        table.add_row(*cells)
    console.print(table)
    console.print("AUC, and its gain over a model of that task alone; * on the Pareto front", style="dim")
    console.print()
    title, reasons, _ = headline(found)
    say(console, "recommendation", title)
    for reason in reasons:
        say(console, "", f"- {reason}")
    for name, why in found.failures:
        say(console, "failed", f"{name}: {why}")
    say(console, "page", str(page))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
