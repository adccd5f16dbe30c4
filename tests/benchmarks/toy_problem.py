"""Where does each balancer come to rest? The two-dimensional problem on which a plain sum of losses gets stuck.

Two losses over θ = (x, y). Above y = 0 each has a narrow valley, and where the valleys meet the gradients oppose each
other and differ much in size; below lie two bowls, and the Pareto front between their centres:

    L_1 = s (max(tanh(y/2), 0) v_1 + max(-tanh(y/2), 0) q_1),   L_2 likewise with s = 1
    v_1 = log max(|(-x - 7)/2 + tanh y|, ε) + 6,   q_1 = ((x - 7)² + (y + 8)²/10) / 10 - 20
    v_2 = log max(|(-x + 3)/2 - tanh y + 2|, ε) + 6,   q_2 = ((x + 7)² + (y + 8)²/10) / 10 - 20

with ε = 5·10⁻⁶. Settings, as published: CAGrad's has s = 1, 3 starts and 100,000 steps, Nash-MTL's s = 0.1, 5 starts
and 35,000 steps; both take Adam at rate 0.001. The gradients are exact, the balancers are Seesaw's at their defaults,
except that FAMO is told the lowest losses (which are negative) and GradVac compares whole gradients. Uncertainty
weighting is left out: it needs losses that are not negative.

    python tests/benchmarks/toy_problem.py

Seconds: about 60 on 2 cores. Pictures go to --out. The last line printed is JSON. The exit code is 0 where, in CAGrad's
setting, the plain sum rests off the front from a start from which PCGrad, CAGrad and Nash-MTL reach it, and these
three reach it from all.

Reference: Liu, Liu, Jin, Stone, Liu. Conflict-Averse Gradient Descent for Multi-task Learning. NeurIPS 2021. Navon,
  Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya. Multi-Task Learning as a Bargaining Game. ICML 2022. After Yu,
  Kumar, Gupta, Levine, Hausman, Finn. Gradient Surgery for Multi-Task Learning. NeurIPS 2020.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar

from models.balancing import AnyBalancer, Balancer, Run

REPOSITORY = Path(__file__).resolve().parents[2]
TITLES = {
    "static": "Sum of losses",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "gradvac": "GradVac",
    "cagrad": "CAGrad",
    "nash_mtl": "Nash-MTL",
    "imtl_g": "IMTL-G",
    "aligned_mtl": "Aligned-MTL",
    "famo": "FAMO",
}
SURGERY = ("pcgrad", "cagrad", "nash_mtl")
REACHED = 0.1
"""Distance to the front in the plane of θ, which is 20 wide."""


class Setting(NamedTuple):
    """A published experiment.

    Attributes:
      title: whose it is.
      scale: s, the factor of the first loss.
      starts: points (x, y).
      steps: of Adam at rate 0.001.
    """

    title: str
    scale: float
    starts: tuple[tuple[float, float], ...]
    steps: int


SETTINGS = {
    "cagrad": Setting("CAGrad's setting", 1.0, ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0)), 100_000),
    "nash_mtl": Setting(
        "Nash-MTL's setting", 0.1, ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)), 35_000
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--steps", type=int, help="steps; as published unless given")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "toy_problem")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    arguments.out.mkdir(parents=True, exist_ok=True)

    result: dict = {"benchmark": "toy_problem", "learning_rate": arguments.learning_rate, "settings": {}}
    for name in arguments.settings:
        setting = SETTINGS[name]._replace(steps=arguments.steps or SETTINGS[name].steps)
        paths = {}
        for method in arguments.methods:
            started = time.monotonic()
            paths[method] = descend(balancer_named(method, setting.scale), setting, arguments.learning_rate)
            console.print(f"{setting.title}, {TITLES[method]}: {time.monotonic() - started:.1f} s")
        found = {method: [ending(path, setting) for path in of_method] for method, of_method in paths.items()}
        picture = arguments.out / f"{name}.png"
        draw(paths, setting).savefig(picture, dpi=130)
        result["settings"][name] = {**setting._asdict(), "picture": str(picture), "endings": found}
        report(setting, found, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    if "cagrad" in result["settings"]:
        endings = result["settings"]["cagrad"]["endings"]
        if all(method in endings for method in ("static", *SURGERY)):
            stuck = not all(e["reached"] for e in endings["static"])
            result["as_published"] = stuck and all(e["reached"] for m in SURGERY for e in endings[m])
    print(json.dumps(result))
    sys.exit(0 if result.get("as_published", True) else 1)


def balancer_named(name: str, scale: float = 1.0) -> Balancer:
    options: dict[str, dict] = {
        "gradvac": {"per": "model"},
        "famo": {"lowest": {"first": -20.0 * scale, "second": -20.0}},
    }
    return TypeAdapter(AnyBalancer).validate_python({"name": name, **options.get(name, {})})


def losses_at(points: tf.Tensor, scale: float) -> tf.Tensor:
    """[..., 2], the two losses at points [..., 2]."""
    x, y = tf.unstack(points, axis=-1)
    bend = tf.tanh(y)
    valleys = [tf.math.log(tf.maximum(tf.abs(u), 5e-6)) + 6.0 for u in ((-x - 7) / 2 + bend, (-x + 3) / 2 - bend + 2)]
    bowls = [((x - centre) ** 2 + (y + 8) ** 2 / 10) / 10 - 20 for centre in (7.0, -7.0)]
    # Not relu: as published, the slope at y = 0 is that of the side on which the term is not zero.
    above, below = tf.maximum(tf.tanh(y / 2), 0.0), tf.maximum(-tf.tanh(y / 2), 0.0)
    first, second = (above * valley + below * bowl for valley, bowl in zip(valleys, bowls))
    return tf.stack([scale * first, second], axis=-1)


def descend(balancer: Balancer, setting: Setting, learning_rate: float = 0.001, every: int = 100) -> np.ndarray:
    """Adam along Σ_k w_k g_k from every start.

    Returns:
      [starts, 1 + steps / every, 2], the points; the last is where the run ends.
    """
    starts = tf.constant(setting.starts, tf.float64)
    run = Run(("first", "second"), steps=setting.steps)

    def step(i: tf.Tensor, points: tf.Tensor, moments: tuple, states: list) -> tuple:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(points)
            losses = losses_at(points, setting.scale)
            first, second = tf.unstack(losses, axis=1)
        gradients = tf.stack([tape.gradient(first, points), tape.gradient(second, points)], axis=1)
        grams = tf.matmul(gradients, gradients, transpose_b=True)
        weights, after = [], []
        for s, state in enumerate(states):
            given = tf.cast(losses[s], tf.float32), tf.cast(grams[s], tf.float32), state
            found, state = balancer.weigh(*given, step=tf.cast(i, tf.int64), seed=tf.stack([s, i]))
            weights.append(tf.cast(found.shared, tf.float64))
            after.append(state)
        direction = tf.linalg.matvec(gradients, tf.stack(weights), transpose_a=True)
        mean = 0.9 * moments[0] + 0.1 * direction
        square = 0.999 * moments[1] + 0.001 * direction**2
        t = tf.cast(i + 1, tf.float64)
        points -= learning_rate * (mean / (1 - 0.9**t)) / (tf.sqrt(square / (1 - 0.999**t)) + 1e-8)
        return i + 1, points, (mean, square), after

    # Compiled, a step takes a tenth of a millisecond.
    @tf.function(jit_compile=True, autograph=False)
    def run_all() -> tf.Tensor:
        records = setting.steps // every
        states = [balancer.initial_state(run) for _ in setting.starts]
        path = tf.TensorArray(tf.float64, records + 1, element_shape=starts.shape).write(0, starts)

        def record(n: tf.Tensor, path: tf.TensorArray, *carried) -> tuple:
            end = (n + 1) * every
            carried = tf.while_loop(lambda i, *_: i < end, step, (n * every, *carried))[1:]
            return n + 1, path.write(n + 1, carried[0]), *carried

        carried = (starts, (tf.zeros_like(starts), tf.zeros_like(starts)), states)
        return tf.while_loop(lambda n, *_: n < records, record, (tf.constant(0), path, *carried))[1].stack()

    return run_all().numpy().transpose(1, 0, 2)


@cache
def pareto_front(number: int = 1401) -> np.ndarray:
    """[number, 2], points of the front from one bowl's centre to the other's.

    At x the weights ((7 + x)/14, (7 - x)/14) balance the losses' slopes in x, whatever y is; y then minimises the
    losses so weighted. The first loss's scale moves the weights but not the points.
    """

    def weighted(y: float, x: float) -> float:
        return -np.tanh(y / 2) * ((49 - x**2 + (y + 8) ** 2 / 10) / 10 - 20)

    xs = np.linspace(-7, 7, number)
    ys = [minimize_scalar(weighted, bounds=(-10, -7), args=(x,), method="bounded").x for x in xs]
    return np.stack([xs, ys], axis=1)


def distance_to_front(point: np.ndarray) -> float:
    return float(np.linalg.norm(pareto_front() - point, axis=1).min())


def ending(path: np.ndarray, setting: Setting) -> dict:
    distance = distance_to_front(path[-1])
    return {
        "start": path[0].tolist(),
        "end": path[-1].tolist(),
        "losses": losses_at(tf.constant(path[-1]), setting.scale).numpy().tolist(),
        "distance": distance,
        "reached": distance < REACHED,
    }


def report(setting: Setting, found: dict[str, list[dict]], console: Console) -> None:
    title = f"{setting.title}: {setting.steps:,} steps; losses and, where it is not reached, the distance to the front"
    table = Table(title=title, box=None, header_style="bold")
    table.add_column("from")
    for start in setting.starts:
        table.add_column("({:g}, {:g})".format(*start), justify="right")
    for method, endings in found.items():
        cells = []
        for e in endings:
            off = "" if e["reached"] else f", {e['distance']:.2g} off"
            cells.append("{:.1f} {:.1f}{}".format(*e["losses"], off))
        table.add_row(TITLES[method], *cells)
    console.print(table)


def draw(paths: dict[str, np.ndarray], setting: Setting) -> Figure:
    """A panel per method: contours of the mean loss, the front, and the paths."""
    columns = min(3, len(paths))
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.8, 3.2 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    grid = np.linspace(-11, 11, 221)
    x, y = np.meshgrid(grid, grid)
    mean = losses_at(tf.constant(np.stack([x, y], axis=-1)), setting.scale).numpy().mean(axis=-1)
    front = pareto_front()
    colors = ListedColormap(colormaps["plasma"](np.linspace(0, 0.9, 256)))  # without the palest yellow
    time_scale = None
    for panel, (method, of_method) in zip(panels, paths.items()):
        panel.contour(x, y, mean, levels=18, colors="0.8", linewidths=0.6, linestyles="solid")
        panel.plot(*front.T, color="0.55", linewidth=5, solid_capstyle="round")
        reached = 0
        for path in of_method:
            segments = np.stack([path[:-1], path[1:]], axis=1)
            steps = np.linspace(0, setting.steps, len(segments))
            time_scale = LineCollection(segments, array=steps, cmap=colors, linewidth=2.2, capstyle="round")
            panel.add_collection(time_scale)
            arrived = distance_to_front(path[-1]) < REACHED
            reached += arrived
            panel.plot(*path[0], "o", color="black", markersize=5)
            style = {"marker": "*", "markersize": 12} if arrived else {"marker": "X", "markersize": 9}
            color = "tab:green" if arrived else "tab:red"
            panel.plot(*path[-1], **style, color=color, markeredgecolor="white", markeredgewidth=0.8, zorder=5)
        panel.set_title(f"{TITLES[method]}: {reached} of {len(of_method)}", fontsize=11)
        panel.set(xlim=(-11, 11), ylim=(-11, 11), aspect="equal", xticks=(-10, 0, 10), yticks=(-10, 0, 10))
    for panel in panels[len(paths) :]:
        panel.set_visible(False)
    figure.supxlabel("x", fontsize=11)
    figure.supylabel("y", fontsize=11)
    bar = figure.colorbar(time_scale, ax=panels, shrink=0.6, label="step", pad=0.01)
    bar.ax.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    marks = [
        Line2D([], [], color="black", marker="o", linestyle="", markersize=5, label="start"),
        Line2D([], [], color="tab:green", marker="*", linestyle="", markersize=11, label="end, on the front"),
        Line2D([], [], color="tab:red", marker="X", linestyle="", markersize=8, label="end, off the front"),
        Line2D([], [], color="0.55", linewidth=5, label="Pareto front"),
        Line2D([], [], color="0.8", linewidth=1, label="mean loss"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
