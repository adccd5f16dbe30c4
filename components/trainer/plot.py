"""The picture of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY_POINTS = 60
_COLOURS = 10


def plot(record: dict[str, Any], path: Path) -> None:
    """Draws losses, task weights, gradient norms and cosines, and the use of experts where there are gates.

    Args:
      record: as training.json has it.
      path: the PNG to write.
    """
    # Matplotlib takes a second to import, which only this needs.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    windows, tasks, gates = record["windows"], record["tasks"], record["gates"]
    rows = 2 + -(-len(gates) // 2)
    figure = Figure(figsize=(12, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, squeeze=False)
    losses = [name for name in (windows[0] if windows else {}) if name.startswith("loss_")]

    _lines(grid[0, 0], "loss, mean of each window", windows, losses, [name.removeprefix("loss_") for name in losses])
    _lines(grid[0, 1], "task weight", windows, [f"weight_{t}" for t in tasks], tasks)
    _lines(grid[1, 0], "norm of the task's gradient", windows, [f"gradient_norm_{t}" for t in tasks], tasks)
    if any(name.startswith("gradient_norm_") for window in windows for name in window):
        grid[1, 0].set_yscale("log", nonpositive="mask")
    pairs = {f"{a}_{b}": f"{a}, {b}" for j, b in enumerate(tasks) for a in tasks[:j]}
    names = [f"cosine_{pair}" for pair in pairs]
    # Pairs are no tasks: their colours begin after those of the tasks.
    _lines(grid[1, 1], "cosine between task gradients", windows, names, list(pairs.values()), first=len(tasks))
    grid[1, 1].axhline(0, color="0.6", linewidth=1, zorder=0)
    grid[1, 1].set_ylim(-1.05, 1.05)
    axes = list(grid[2:].flat)
    for axis, (gate, final) in zip(axes, gates.items()):
        experts = range(len(final["use"]))
        names = [f"gate_{gate}_{e}" for e in experts]
        _lines(axis, f"use of experts, gate {gate}", windows, names, [f"expert {e}" for e in experts])
        axis.set_ylim(bottom=0)
    for axis in axes[len(gates) :]:
        axis.set_visible(False)
    for axis in grid.flat:
        axis.set_xlabel("step")
    figure.savefig(str(path), dpi=120)


def _lines(
    axis: Axes, title: str, windows: list[dict[str, Any]], names: list[str], labels: list[str], first: int = 0
) -> None:
    """Draws a line per name; where there are many points, a running mean over them, and the points behind it."""
    drawn = 0
    many = len(windows) > _MANY_POINTS
    for i, (name, label) in enumerate(zip(names, labels)):
        points = [(window["step"], window[name]) for window in windows if name in window]
        if not points:
            continue
        steps, values = np.array(points, dtype=np.float64).T
        colour = f"C{(first + i) % _COLOURS}"
        style = "-" if i < _COLOURS else "--"
        if many:
            axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.25)
            values = _running_mean(values, len(windows) // 20)
        axis.plot(steps, values, style, color=colour, marker=None if many else ".", linewidth=1.6, label=label)
        drawn += 1
    axis.set_title(f"{title} (running mean)" if many and drawn else title, fontsize=11, loc="left")
    axis.grid(alpha=0.3)
    if drawn:
        # Beside the curves, where it hides none of them.
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, ncols=1 + drawn // 13)
    else:
        axis.text(0.5, 0.5, "not observed", ha="center", va="center", color="0.5", transform=axis.transAxes)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over up to `width` values, those after and before; fewer at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
