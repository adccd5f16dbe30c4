"""Does MMoE lose less than a shared bottom as two tasks grow apart? The synthetic experiment of its paper.

Two regressions on the same x ~ N(0, I) of 100 dimensions (Ma et al., KDD 2018, section 3.2):

    w_1 = u_1,  w_2 = p u_1 + √(1 - p²) u_2,  u_1 and u_2 orthonormal
    y_k = w_k·x + Σ_i sin(α_i w_k·x + β_i) + ε,  ε ~ N(0, 0.01 as variance)

with p the correlation of the weight vectors. Compared at equal numbers of weights, as in the paper: a shared bottom of
113 units; one gate for both tasks over 8 experts of 16 units; a gate for each task (MMoE). Towers have 8 units.
The paper does not give α and β; here α_i = i and β_i = i for i = 1..--sines. Every step sees new rows, so that
nothing overfits, and the models of one seed see the same rows. Reported is the mean squared error of both tasks on
held-out rows, and MMoE's less the others', paired by seed, with Student's 95 % interval.

    python tests/benchmarks/mmoe_synthetic.py

The picture, of every seed and of the means, goes to --out. The last line printed is JSON. The exit code is 0 where
MMoE's error is significantly below the shared bottom's at the lowest correlation.

Reference: Ma, Zhao, Yi, Chen, Hong, Chi. Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts. KDD 2018.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
import tf_keras as keras
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from models.trunks import DenseStack, MMoEConfig, SharedBottomConfig, TrunkConfig

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH = 100
TOWER = DenseStack(units=(8,))
EXPERTS = MMoEConfig(name="mmoe", experts=8, expert=DenseStack(units=(16,)))
# 100 × 16 × 8 weights of experts and 16 × 8 × 2 of towers, over 100 + 2 × 8 per unit of a shared bottom.
BOTTOM = SharedBottomConfig(name="shared_bottom", bottom=DenseStack(units=(113,)))
MODELS: dict[str, tuple[TrunkConfig, int]] = {
    "shared_bottom": (BOTTOM, 2),
    "one_gate": (EXPERTS, 1),
    "mmoe": (EXPERTS, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--correlations", type=float, nargs="+", default=[1.0, 0.9, 0.5, 0.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--sines", type=int, default=4)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "mmoe_synthetic")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    tf.config.experimental.enable_op_determinism()

    errors: dict[str, dict[str, list[float]]] = {}
    for correlation in sorted(arguments.correlations, reverse=True):
        started = time.monotonic()
        errors[f"{correlation:g}"] = {
            name: [train(name, correlation, seed, arguments) for seed in range(1, arguments.seeds + 1)]
            for name in MODELS
        }
        console.print(f"correlation {correlation:g}: {time.monotonic() - started:.0f} s")

    lowest = f"{min(arguments.correlations):g}"
    differences = {
        correlation: {name: paired(by_model["mmoe"], by_model[name]) for name in ("shared_bottom", "one_gate")}
        for correlation, by_model in errors.items()
    }
    result = {
        "benchmark": "mmoe_synthetic",
        **{k: v for k, v in vars(arguments).items() if k != "out"},
        "errors": errors,
        "mmoe_less_other": differences,
        "better_at_lowest_correlation": bool(differences[lowest]["shared_bottom"]["interval_95"][1] < 0),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(errors, lowest).savefig(arguments.out / "errors.png", dpi=130)
    report(result, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    print(json.dumps(result))
    sys.exit(0 if result["better_at_lowest_correlation"] else 1)


def train(name: str, correlation: float, seed: int, arguments: argparse.Namespace) -> float:
    """The mean squared error of both tasks on held-out rows, after training."""
    task_weights = weight_vectors(correlation, seed)
    config, representations = MODELS[name]
    trunk = config.build(representations, seed=1000 * seed)
    towers = []
    for k in range(2):
        tower = keras.Sequential([TOWER.build("hidden", seed=1000 * seed + 500 + 10 * k)], name=f"tower_{k}")
        tower.add(
            keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(1000 * seed + 509 + 10 * k))
        )
        towers.append(tower)
    optimizer = keras.optimizers.legacy.Adam(arguments.learning_rate)

    def rows(number: int, at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        both = tf.random.stateless_normal([number, WIDTH + 2], tf.stack([seed, at]))
        x, noise = both[:, :WIDTH], both[:, WIDTH:]
        z = tf.matmul(x, task_weights)
        waves = [tf.sin(i * z + i) for i in range(1, arguments.sines + 1)]
        return x, tf.add_n([z, 0.1 * noise, *waves])

    def error(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        hidden = trunk(x, training=True)
        hidden = hidden if len(hidden) == 2 else hidden * 2
        outputs = tf.concat([tower(h) for tower, h in zip(towers, hidden)], axis=1)
        return tf.reduce_mean(tf.square(outputs - y))

    error(*rows(2, tf.constant(0)))
    variables = [*trunk.trainable_variables, *(v for tower in towers for v in tower.trainable_variables)]

    @tf.function
    def fit() -> None:
        for at in tf.range(1, arguments.steps + 1):
            x, y = rows(arguments.batch_size, at)
            with tf.GradientTape() as tape:
                loss = error(x, y)
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    fit()
    return float(error(*rows(20_000, tf.constant(0))))


def weight_vectors(correlation: float, seed: int) -> tf.Tensor:
    """[100, 2]: two unit vectors at this cosine, in directions that the seed decides."""
    u, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, 2)))
    second = correlation * u[:, 0] + np.sqrt(1 - correlation**2) * u[:, 1]
    return tf.constant(np.stack([u[:, 0], second], axis=1), tf.float32)


def paired(own: list[float], other: list[float]) -> dict:
    """Mean of the differences and its 95 % interval; no interval from one seed."""
    differences = np.subtract(own, other)
    mean, n = float(differences.mean()), len(differences)
    half = float(student.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def report(result: dict, console: Console) -> None:
    table = Table(title=f"Mean squared error, {result['seeds']} seeds", box=None, header_style="bold")
    for column in ("correlation", *MODELS, "MMoE less shared bottom", "MMoE less one gate"):
        table.add_column(column.replace("_", " "), justify="right")
    for correlation, by_model in result["errors"].items():
        table.add_row(
            correlation,
            *(f"{np.mean(by_model[m]):.3f} (± {np.std(by_model[m]):.3f})" for m in MODELS),
            *(
                "{:+.3f} ({:+.3f} to {:+.3f})".format(d["mean"], *d["interval_95"])
                for d in result["mmoe_less_other"][correlation].values()
            ),
        )
    console.print(table)


def draw(errors: dict[str, dict[str, list[float]]], lowest: str) -> Figure:
    """Left the errors by correlation, right those of the lowest correlation, a line per seed."""
    names = {"shared_bottom": "shared bottom", "one_gate": "one gate", "mmoe": "MMoE"}
    colors = {"shared_bottom": "tab:gray", "one_gate": "tab:orange", "mmoe": "tab:blue"}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_correlation, by_seed = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(errors))
    for shift, (model, name) in zip((-0.12, 0.0, 0.12), names.items()):
        found = np.array([by_model[model] for by_model in errors.values()])
        by_correlation.plot(places + shift, found, ".", color=colors[model], alpha=0.45)
        by_correlation.plot(places + shift, found.mean(axis=1), "o-", color=colors[model], label=name)
    by_correlation.set_xticks(places, list(errors))
    by_correlation.set(xlabel="correlation of the tasks", ylabel="mean squared error, held out", ylim=(0, None))
    by_correlation.legend(frameon=False)
    seeds = np.array([errors[lowest][model] for model in names])
    by_seed.plot(range(len(names)), seeds, "-", color="0.75", linewidth=1)
    for place, model in enumerate(names):
        by_seed.plot(np.full(seeds.shape[1], place), seeds[place], "o", color=colors[model])
    by_seed.set_xticks(range(len(names)), list(names.values()))
    by_seed.set_title(f"correlation {lowest}, a line per seed", fontsize=10)
    for panel in (by_correlation, by_seed):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
    return figure


if __name__ == "__main__":
    main()
