"""What does balancing cost? A training step of every balancer and level, beside the plain summed loss.

20 id features with vocabularies of 10 k to 1 M (log-spaced, ids drawn log-uniformly), dimension 16, 10 numbers; MMoE
with 4 experts [256, 128], towers [64], plain heads; batches of 4096; K = 2, 3 and 6 tasks. Per K, in one process:
- `plain`: a step written without Seesaw's task gradients: one tape, the gradient of the summed loss, the same look-ups
  and optimizers. Every ratio `cpu` and `wall` is to this one.
- `floor`: one forward and K trunk backward passes whose gradients are only added up: what exact task gradients cost
  without any balancing. `cpu_to_floor` is the ratio to it.
- every balancer, at every level that it has; `static` also with the probe of the Gram matrix at every 100th step.
- `naive pcgrad`: as common implementations do it: every gradient dense, flattened and concatenated.
Besides: level representation on a shared bottom, and the same step with one table of 10 M rows instead of 10 k rows.

And, per K, in a process of their own: PCGrad of TorchJD and of LibMTL on an equal PyTorch model, beside a plain step
of PyTorch (see train_step_torch.py). They are installed from PyPI into an environment under --work (5 GB, most of it
libraries for GPUs that PyTorch's only wheel there depends on, or links to uv's cache); where that fails, the result
says so. `cpu` is the ratio to PyTorch's plain step, `cpu_to_ours` that to Seesaw's exact PCGrad.

The contenders take turns; a turn is a few steps, and the figure is the median over the turns. Ratios are of CPU time
(all threads); wall time moves with whatever else the machine does. Peak memory is that of a process of its own per
contender.

    python tests/benchmarks/train_step.py

Minutes: about 30 on 2 cores. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
from environments import REPOSITORY, last_line, python_with
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from throughput_common import peak_gib

from models.balancing import AnyBalancer, Balancer, Needs
from models.features import IdFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import TaskConfig

BATCH = 4096
IDS, NUMBERS, DIMENSION = 20, 10, 16
TRUNKS = {
    "mmoe": {"name": "mmoe", "experts": 4, "expert": {"units": [256, 128]}},
    "shared_bottom": {"name": "shared_bottom", "bottom": {"units": [256, 128]}},
}
LOSS_ONLY = ("static", "uncertainty", "dwa", "htw", "famo", "random_weighting", "gradnorm")
GRAM = ("mgda", "pe_ltr", "pcgrad", "gradvac", "cagrad", "nash_mtl", "imtl_g", "aligned_mtl")
IN_MEMORY = ("plain", "floor", "static", "pcgrad, representation", "pcgrad, parameters", "naive pcgrad")
PROBE = 100
IN_TORCH = ("plain", "plain, dense", "torchjd pcgrad", "torchjd pcgrad, gramian", "libmtl pcgrad")
# LibMTL imports SciPy and torchvision without asking for the first.
TORCH = ("torch==2.14.1", "numpy==2.2.6", "torchjd==0.18.0")
LIBMTL = ("libmtl==1.1.5", "scipy==1.15.3")

Step = Callable[[dict[str, tf.Tensor], tf.Tensor], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3, 6], help="numbers of tasks")
    parser.add_argument("--turns", type=int, default=9, help="turns of every contender")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--only", nargs="+", help="contenders to time, besides plain and floor")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True, help="time PyTorch's as well")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "train_step", help="PyTorch's environment")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how the benchmark starts itself
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory_here(arguments.memory_of, arguments.tasks[0]))
        return
    console = Console(stderr=True, highlight=False)
    result: dict = {"benchmark": "train_step", "batch": BATCH, "cpus": len(tf.config.list_physical_devices("CPU"))}
    result |= {"tasks": {}, "representation_on_shared_bottom": {}, "torch": {}, "not_installed": {}}
    python = torch_python(arguments.work, result["not_installed"], console) if arguments.torch else None
    for k in arguments.tasks:
        names = [n for n in contender_names() if arguments.only is None or n in (*arguments.only, "plain", "floor")]
        console.print(f"{k} tasks: building {len(names)} train steps")
        bench = Bench(k, "mmoe")
        timed = measure({name: bench.step(name) for name in names}, bench.batches, arguments, console)
        result["tasks"][k] = ratios(timed, names)
        del bench
        if arguments.only is None:
            memory = {name: peak_memory(name, k) for name in IN_MEMORY}
            for name, mebibytes in memory.items():
                result["tasks"][k][name]["peak_mib"] = mebibytes
        report(k, result["tasks"][k], console)
        bench = Bench(k, "shared_bottom")
        wanted = ["plain", "pcgrad, representation"]
        timed = measure({name: bench.step(name) for name in wanted}, bench.batches, arguments, console)
        result["representation_on_shared_bottom"][k] = ratios(timed, wanted)[wanted[1]]
        del bench
        if python:
            ours = result["tasks"][k].get("pcgrad, parameters")
            result["torch"][k] = in_torch(python, k, ours, arguments)
            report_torch(k, result["torch"][k], console)
    result["ten_million_rows"] = ten_million_rows(arguments, console)
    result["targets"] = targets(result)
    console.print_json(json.dumps(result["targets"]))
    print(json.dumps(result))


def contender_names() -> list[str]:
    levels = [f"{name}, {level}" for name in GRAM for level in ("representation", "parameters")]
    return ["plain", "floor", *LOSS_ONLY, "static, probe", *levels, "naive pcgrad"]


class Bench:
    """The contenders of one number of tasks; they share the embedding tables, whose size is most of the memory."""

    def __init__(self, k: int, trunk: str, first_vocabulary: int = 10_000, seed: int = 0):
        self.k = k
        sizes = np.geomspace(10_000, 1_000_000, IDS).astype(int)
        sizes[0] = first_vocabulary
        self.features = (
            *(IdFeature(kind="id", name=f"id{i}", side="user", dimension=DIMENSION) for i in range(IDS)),
            *(NumberFeature(kind="number", name=f"number{i}", side="user") for i in range(NUMBERS)),
        )
        self.rows = {f"id{i}": int(n) + 2 for i, n in enumerate(sizes)}
        self.tasks = tuple(TaskConfig(name=f"t{i}", label=f"y{i}", joint=f"j{i}" if i else None) for i in range(k))
        self.model = ModelConfig.model_validate_json(
            json.dumps({"trunk": TRUNKS[trunk], "heads": {"name": "plain", "tower": [64]}})
        )
        self.batches = [self._batch(np.random.default_rng(seed + i), sizes) for i in range(4)]
        self._tables_of: Ranker | None = None

    def _batch(self, rng: np.random.Generator, sizes: np.ndarray) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        features = {f"id{i}": 1 + np.exp(rng.random(BATCH) * np.log(n)).astype(np.int64) for i, n in enumerate(sizes)}
        features |= {f"number{i}": rng.normal(size=BATCH).astype(np.float32) for i in range(NUMBERS)}
        labels = np.cumprod(rng.random((BATCH, self.k)) < 0.5, axis=1).astype(np.float32)
        return {name: tf.constant(v) for name, v in features.items()}, tf.constant(labels)

    def ranker(self, balancer: Balancer, probe_every: int = 0) -> Ranker:
        first = self._tables_of is None
        rows = self.rows if first else dict.fromkeys(self.rows, 2)
        options = {"steps": 1000, "probe_every": probe_every}
        ranker = Ranker(self.features, rows, self.tasks, self.model, balancer, OptimizerConfig(), **options)
        if first:
            self._tables_of = ranker
        else:
            ranker.encoder, ranker.table_optimizer = self._tables_of.encoder, self._tables_of.table_optimizer
        return ranker

    def step(self, name: str) -> Step:
        if name in ("plain", "floor", "naive pcgrad"):
            ranker = self.ranker(balancer_named("static"))
            body = {"plain": plain, "floor": floor, "naive pcgrad": naive_pcgrad}[name]
            return tf.function(lambda features, labels: body(ranker, features, labels), autograph=False)
        base, _, variant = name.partition(", ")
        options = {"level": variant} if variant in ("representation", "parameters") else {}
        if base == "gradvac" and variant == "representation":
            options["per"] = "model"
        probe_every = PROBE if variant == "probe" else 1 if variant == "probe at every step" else 0
        ranker = self.ranker(balancer_named(base, **options), probe_every)
        return tf.function(lambda features, labels: ranker.train_step((features, labels)), autograph=False)


def balancer_named(name: str, **options) -> Balancer:
    return TypeAdapter(AnyBalancer).validate_json(json.dumps({"name": name, **options}))


def gathered_ids(ranker: Ranker, features: dict[str, tf.Tensor]) -> tuple:
    lookups = ranker.encoder.lookup(features)
    rows = ranker.encoder.rows(lookups)
    return lookups, rows, [tf.gather(r, lookup.positions) for r, lookup in zip(rows, lookups)]


def losses_of(ranker: Ranker, features: dict, labels: tf.Tensor, values: list[tf.Tensor]) -> list[tf.Tensor]:
    representations = ranker.trunk(ranker.encoder.embed(features, values, True), training=True)
    logits = ranker.heads(representations, training=True)
    return ranker.heads.task_losses(logits, tf.unstack(labels, axis=1))


def dense_weights(ranker: Ranker) -> list[tf.Variable]:
    return [*ranker.trunk.trainable_variables, *ranker.heads.trainable_variables]


def update(ranker: Ranker, lookups: list, rows: list, variables: list, gradients: list) -> None:
    slices = [
        (tf.IndexedSlices(g, lookup.unique, tf.constant(table.shape.as_list(), tf.int64)), table)
        for g, lookup, table in zip(rows, lookups, ranker.encoder.tables)
    ]
    ranker.table_optimizer.apply_gradients(slices)
    ranker.dense_optimizer.apply_gradients(zip(gradients, variables))


def plain(ranker: Ranker, features: dict, labels: tf.Tensor) -> None:
    """The summed loss and nothing else."""
    lookups, rows, _ = gathered_ids(ranker, features)
    variables = dense_weights(ranker)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for source in (*rows, *variables):
            tape.watch(source)
        values = [tf.gather(r, lookup.positions) for r, lookup in zip(rows, lookups)]
        losses = losses_of(ranker, features, labels, values)
        total = tf.add_n(losses)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(total, [*rows, *variables])]
    update(ranker, lookups, gradients[: len(rows)], variables, gradients[len(rows) :])
    for mean, loss in zip(ranker.loss_means, losses):
        mean.update_state(loss)


def floor(ranker: Ranker, features: dict, labels: tf.Tensor) -> None:
    """K backward passes through the trunk, their gradients added up; the embeddings' part is done once."""
    lookups, _, values = gathered_ids(ranker, features)
    variables = dense_weights(ranker)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        for source in (*values, *variables):
            tape.watch(source)
        losses = losses_of(ranker, features, labels, values)
    found = zip(*(tape.gradient(loss, [*values, *variables]) for loss in losses))
    summed = [tf.add_n([tf.convert_to_tensor(g) for g in gradients if g is not None]) for gradients in found]
    rows = [
        tf.math.unsorted_segment_sum(g, lookup.positions, tf.shape(lookup.unique)[0])
        for g, lookup in zip(summed, lookups)
    ]
    update(ranker, lookups, rows, variables, summed[len(rows) :])
    for mean, loss in zip(ranker.loss_means, losses):
        mean.update_state(loss)


def naive_pcgrad(ranker: Ranker, features: dict, labels: tf.Tensor) -> None:
    """Every gradient made dense, of the table's size, flattened into one vector per task, and projected there."""
    variables = [*ranker.encoder.tables, *dense_weights(ranker)]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        for source in variables:
            tape.watch(source)
        lookups = ranker.encoder.lookup(features)
        values = [tf.gather(t, tf.gather(u.unique, u.positions)) for t, u in zip(ranker.encoder.tables, lookups)]
        losses = losses_of(ranker, features, labels, values)
    flat = []
    for loss in losses:
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        flat.append(tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], axis=0))
    projected = []
    for i, gradient in enumerate(flat):
        for j in np.random.default_rng(i).permutation(len(flat)):
            if i != j:
                product = tf.tensordot(gradient, flat[j], 1)
                square = tf.tensordot(flat[j], flat[j], 1)
                gradient = gradient - tf.minimum(tf.math.divide_no_nan(product, square), 0.0) * flat[j]
        projected.append(gradient)
    parts = tf.split(tf.add_n(projected), [int(v.shape.num_elements()) for v in variables])
    combined = [tf.reshape(part, v.shape) for part, v in zip(parts, variables)]
    tables = len(ranker.encoder.tables)
    ranker.table_optimizer.apply_gradients(zip(combined[:tables], variables))
    ranker.dense_optimizer.apply_gradients(zip(combined[tables:], variables[tables:]))
    for mean, loss in zip(ranker.loss_means, losses):
        mean.update_state(loss)


def measure(steps: dict[str, Step], batches: list, arguments, console: Console) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds per step of every contender; they take turns."""
    for i, (name, step) in enumerate(steps.items()):
        started = time.monotonic()
        for batch in batches[:3]:
            step(*batch)
        console.print(f"  {i + 1}/{len(steps)} {name}: ready in {time.monotonic() - started:.0f} s")
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    order = list(steps)
    rng = np.random.default_rng(0)
    for turn in range(arguments.turns):
        rng.shuffle(order)
        for name in order:
            cpu, wall = time.process_time(), time.perf_counter()
            for i in range(arguments.steps):
                steps[name](*batches[(turn + i) % len(batches)])
            turns[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: tuple(np.median(np.array(t), axis=0) / arguments.steps) for name, t in turns.items()}


def ratios(timed: dict[str, tuple[float, float]], names: list[str]) -> dict[str, dict[str, float]]:
    plain_cpu, plain_wall = timed["plain"]
    found = {}
    for name in names:
        cpu, wall = timed[name]
        found[name] = {
            "cpu_ms": round(1000 * cpu, 1),
            "wall_ms": round(1000 * wall, 1),
            "cpu": round(cpu / plain_cpu, 3),
            "wall": round(wall / plain_wall, 3),
        }
        if "floor" in timed and name.endswith("parameters"):
            found[name]["cpu_to_floor"] = round(cpu / timed["floor"][0], 3)
    return found


def ten_million_rows(arguments, console: Console) -> dict[str, float]:
    """The same step with a table of 10 M rows in the place of one of 10 k; both take turns."""
    console.print("one table of 10 M rows instead of 10 k")
    benches = {"10 k": Bench(2, "mmoe"), "10 M": Bench(2, "mmoe", 10_000_000)}
    timed = {}
    steps = {name: bench.step("pcgrad, parameters") for name, bench in benches.items()}
    # Each has batches of its own, because its ids differ.
    bound = {
        name: (lambda _f, _l, n=name, i=iter(range(10**9)): steps[n](*benches[n].batches[next(i) % 4]))
        for name in steps
    }
    timed = measure(bound, benches["10 k"].batches, arguments, console)
    return {
        "cpu_ms_10k": round(1000 * timed["10 k"][0], 1),
        "cpu_ms_10m": round(1000 * timed["10 M"][0], 1),
        "cpu": round(timed["10 M"][0] / timed["10 k"][0], 3),
    }


def peak_memory(name: str, k: int) -> int:
    """Peak resident MiB of a process that takes a few steps of one contender."""
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", name, "--tasks", str(k)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def peak_memory_here(name: str, k: int) -> int:
    bench = Bench(k, "mmoe")
    step = bench.step(name)
    for batch in bench.batches:
        step(*batch)
    return round(peak_gib() * 1024)


def torch_python(work: Path, missing: dict[str, str], console: Console) -> Path | None:
    """The Python of PyTorch's environment, without LibMTL or none at all where they cannot be installed."""
    for name, requirements in (("libmtl", TORCH + LIBMTL), ("torch", TORCH)):
        try:
            return python_with(requirements, work / "torch", console)
        except (subprocess.CalledProcessError, OSError) as error:
            missing[name] = last_line(error)
            console.print(f"{name} is left out, it cannot be installed: {missing[name]}")
    return None


def in_torch(python: Path, k: int, ours: dict[str, float] | None, arguments) -> dict:
    """What PyTorch's contenders cost, with ratios to PyTorch's plain step and to Seesaw's exact PCGrad."""

    def run(names: tuple[str, ...], turns: int) -> dict:
        # Threads that spin while they wait would count as CPU time.
        variables = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            variables.pop(name, None)
        script = Path(__file__).resolve().with_name("train_step_torch.py")
        sizes = ["--tasks", k, "--turns", turns, "--steps", arguments.steps]
        command = [str(v) for v in (python, script, *sizes, "--contenders", *names)]
        found = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
        if found.returncode:  # negative: killed, for want of memory for example
            reason = [*found.stderr.strip().splitlines(), f"exit code {found.returncode}"][-2:]
            return {"versions": {}, "failed": {"PyTorch": " ".join(reason)}, "steps": {}, "peak_mib": None}
        return json.loads(found.stdout.splitlines()[-1])

    found = run(IN_TORCH, arguments.turns)
    timed = {name: (t["cpu"], t["wall"]) for name, t in found.pop("steps").items()}
    steps = ratios(timed, list(timed)) if timed else {}
    for name, r in steps.items():
        if ours:
            r["cpu_to_ours"] = round(1000 * timed[name][0] / ours["cpu_ms"], 2)
        if arguments.only is None:
            r["peak_mib"] = run((name,), 0)["peak_mib"]
    del found["peak_mib"]
    return {**found, "steps": steps}


def targets(result: dict) -> dict[str, dict]:
    """The worst of each kind beside what it should be."""
    found: dict[str, dict] = {}

    def note(name: str, values: list[float], bound: float, at_most: bool = True) -> None:
        if values:
            worst = max(values) if at_most else min(values)
            met = worst <= bound if at_most else worst >= bound
            found[name] = {"worst": float(worst), "bound": bound, "met": bool(met)}

    per_k = result["tasks"]
    short = [n for n in LOSS_ONLY if balancer_named(n).needs is Needs.LOSSES]
    note("loss-only, probe off", [r[n]["cpu"] for r in per_k.values() for n in short if n in r], 1.03)
    note("loss-only, probe", [r["static, probe"]["cpu"] for r in per_k.values() if "static, probe" in r], 1.05)
    level = [r[n]["cpu"] for r in per_k.values() for n in r if n.endswith(", representation")]
    level += [r["cpu"] for r in result["representation_on_shared_bottom"].values()]
    note("representation level", level, 1.12)
    to_floor = [v["cpu_to_floor"] for r in per_k.values() for v in r.values() if "cpu_to_floor" in v]
    note("parameter level, to the floor", to_floor, 1.15)
    for k, r in per_k.items():
        if "naive pcgrad" in r and "pcgrad, parameters" in r:
            times = round(r["naive pcgrad"]["cpu"] / r["pcgrad, parameters"]["cpu"], 2)
            note(f"naive pcgrad to ours, K = {k}", [times], {2: 4.5, 3: 6.0, 6: 12.0}.get(int(k), 1.0), at_most=False)
    note("10 M rows to 10 k", [result["ten_million_rows"]["cpu"]], 1.25)
    return found


def report(k: int, rows: dict[str, dict], console: Console) -> None:
    table = Table(title=f"{k} tasks, MMoE, batch {BATCH}", box=None, header_style="bold")
    for column in ("step", "CPU ms", "CPU", "wall", "to the floor", "peak MiB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, r in rows.items():
        floor_ratio = f"{r['cpu_to_floor']:.2f}" if "cpu_to_floor" in r else ""
        memory = f"{r['peak_mib']:,}" if "peak_mib" in r else ""
        table.add_row(name, f"{r['cpu_ms']:.0f}", f"{r['cpu']:.2f}", f"{r['wall']:.2f}", floor_ratio, memory)
    console.print(table)


def report_torch(k: int, found: dict, console: Console) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    table = Table(title=f"{k} tasks, MMoE, batch {BATCH}: {versions}", box=None, header_style="bold")
    for column in ("step", "CPU ms", "CPU", "wall", "CPU to Seesaw's", "peak MiB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, r in found["steps"].items():
        to_ours = f"{r['cpu_to_ours']:.2f}" if "cpu_to_ours" in r else ""
        memory = f"{r['peak_mib']:,}" if "peak_mib" in r else ""
        table.add_row(name, f"{r['cpu_ms']:.0f}", f"{r['cpu']:.2f}", f"{r['wall']:.2f}", to_ours, memory)
    console.print(table)
    for name, reason in found["failed"].items():
        console.print(f"{name} failed: {reason}")


if __name__ == "__main__":
    main()
