"""Examples per second of a training epoch: Seesaw beside DeepCTR and torch-rechub.

The same rows, the same sizes of MMoE, PLE and ESMM, the same batch, and every system at its own defaults: its
optimizer, initial weights, regularisation and way of reading data.
- The data are made from a seed: 20 id features with 10,000 to --largest ids each, 10 numbers, a click and a purchase
  among clicked rows. ESMM reads the ids only, since torch-rechub's does.
- Each run is a process of its own with --threads cores and threads. It trains on --warm-up batches, which builds
  its graph, and then --epochs epochs by the clock: wall seconds, and CPU seconds of all its threads. Seesaw's time
  includes the reading of tf.Examples from gzip files, DeepCTR's and torch-rechub's the reading of arrays in memory.
- Every round runs every system once per model, one after another in turning order, with the round as its seed.
- AUC is that of p(click), and of p(click and purchase) over all held-out rows. Differences are those of the mean
  over the rounds, with DeLong's paired 95 % interval over the held-out rows.

DeepCTR and torch-rechub are installed from PyPI into environments of their own under --work (7 GB, most of it
libraries for GPUs that PyTorch's only wheel there depends on); what cannot be installed is named and left out.

    python tests/benchmarks/throughput.py

The last line printed is JSON. The exit code is 0 where Seesaw, at its defaults, trains at least 4 times as many
examples per second as either, for every model, and no AUC is significantly lower.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import pyarrow as pa
import tensorflow as tf
from environments import REPOSITORY, last_line, python_with
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata
from throughput_common import LABELS, MODELS, NUMBER_NAMES, Columns, Task, make_data

from components.log_example_gen.encoding import encode

HERE = Path(__file__).resolve().parent
SHARDS = 4
TARGET = 4.0
OWN = ("seesaw", "seesaw, bfloat16")


@dataclass(frozen=True)
class Contender:
    """A system, its worker, and what to install for it; nothing for the environment that runs this script."""

    name: str
    script: str
    requirements: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    precision: str = "float32"


CONTENDERS = (
    Contender("seesaw", "throughput_seesaw.py"),
    Contender("seesaw, bfloat16", "throughput_seesaw.py", precision="mixed_bfloat16"),
    Contender(
        "deepctr",
        "throughput_deepctr.py",
        ("deepctr==0.9.4", "tensorflow-cpu==2.16.2", "tf-keras==2.16.0", "numpy==1.26.4"),
        (("TF_USE_LEGACY_KERAS", "1"),),
    ),
    Contender(
        "torch-rechub",
        "throughput_torch_rechub.py",
        ("torch-rechub==0.9.0", "torch==2.14.1", "numpy==2.2.6"),
        # Threads that spin while they wait take the few cores from those that work.
        (("OMP_WAIT_POLICY", "PASSIVE"),),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "throughput")
    parser.add_argument("--rows", type=int, default=400_000, help="training rows")
    parser.add_argument("--held-out", type=int, default=100_000, help="held-out rows")
    parser.add_argument("--largest", type=int, default=1_000_000, help="ids of the largest vocabulary")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=5, help="batches before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--systems", nargs="+", choices=[c.name for c in CONTENDERS])
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)

    pythons, missing = {}, {}
    for contender in CONTENDERS:
        if contender.name in (arguments.systems or (contender.name,)):
            try:
                folder = arguments.work / contender.name
                wanted = contender.requirements
                pythons[contender] = python_with(wanted, folder, console) if wanted else Path(sys.executable)
            except (subprocess.CalledProcessError, OSError) as error:
                missing[contender.name] = last_line(error)
                console.print(f"{contender.name} is left out, it cannot be installed: {missing[contender.name]}")
    data = Data(arguments, console)
    labels = [data.held_out[label] for label in LABELS]

    runs: dict[str, dict[str, list[dict]]] = {m: {c.name: [] for c in pythons} for m in arguments.models}
    for number in range(1, arguments.rounds + 1):
        for model in arguments.models:
            turn = number % len(pythons)
            for contender in [*pythons][turn:] + [*pythons][:turn]:
                run = train(
                    contender, pythons[contender], data.task(model, number, contender.precision), arguments.work
                )
                run["auc_terms"] = [auc_terms(y, p) for y, p in zip(labels, run.pop("predictions"))]
                runs[model][contender.name].append(run)
                console.print(
                    f"round {number}, {model}, {contender.name}: {run['seconds']['train']['wall']:.1f} s, "
                    f"CPU {run['seconds']['train']['cpu']:.1f} s, "
                    f"AUC {' '.join(f'{t.auc:.4f}' for t in run['auc_terms'])}"
                )

    result = {
        "benchmark": "throughput",
        **{k: v for k, v in vars(arguments).items() if k not in ("work", "systems", "models")},
        "base_rates": {label: float(y.mean()) for label, y in zip(LABELS, labels)},
        "cores": os.cpu_count(),
        "not_installed": missing,
        "models": {
            model: summary(of_model, arguments.rows * arguments.epochs, arguments.epochs)
            for model, of_model in runs.items()
        },
    }
    result["verdicts"] = {
        own: verdict(result["models"].values(), own) for own in OWN if own in [c.name for c in pythons]
    }
    report(result, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    print(json.dumps(result))
    sys.exit(0 if not missing and all(result["verdicts"].get(OWN[0], {"run": False}).values()) else 1)


class Data:
    """The rows, on disk in the forms in which the contenders read them; made where they are not there yet."""

    def __init__(self, arguments: argparse.Namespace, console: Console):
        self._arguments = arguments
        shape = (arguments.rows, arguments.held_out, arguments.largest, arguments.batch_size, arguments.warm_up)
        source = (HERE / "throughput_common.py").read_bytes() + repr(shape).encode()
        self._folder = (arguments.work / f"data-{hashlib.sha256(source).hexdigest()[:12]}").resolve()
        done = self._folder / "done"
        if not done.exists():
            console.print(f"making {arguments.rows:,} + {arguments.held_out:,} rows in {self._folder}")
            self._folder.mkdir(parents=True, exist_ok=True)
            columns = make_data(arguments.rows + arguments.held_out, arguments.largest, seed=1)
            train = {k: v[: arguments.rows] for k, v in columns.items()}
            np.savez(self._folder / "train.npz", **train)
            np.savez(self._folder / "held_out.npz", **{k: v[arguments.rows :] for k, v in columns.items()})
            for shard in range(SHARDS):
                part = {k: v[shard::SHARDS] for k, v in train.items()}
                write_examples(part, self._folder / f"train-{shard:05d}-of-{SHARDS:05d}.gz")
            first = arguments.warm_up * arguments.batch_size
            write_examples({k: v[:first] for k, v in train.items()}, self._folder / "warm_up.gz")
            done.touch()
        with np.load(self._folder / "held_out.npz") as file:
            self.held_out = {label: file[label] for label in LABELS}

    def task(self, model: str, seed: int, precision: str) -> Task:
        arguments = self._arguments
        return Task(
            model=model,
            rows=arguments.rows,
            train=str(self._folder / "train.npz"),
            held_out=str(self._folder / "held_out.npz"),
            examples=str(self._folder / "train-*.gz"),
            warm_up_examples=str(self._folder / "warm_up.gz"),
            largest=arguments.largest,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            warm_up=arguments.warm_up,
            threads=arguments.threads,
            seed=seed,
            precision=precision,
            predictions=str(self._folder / "predictions.npy"),
            result=str(self._folder / "result.json"),
        )


def write_examples(columns: Columns, path: Path) -> None:
    """Transformed tf.Examples as Transform writes them, gzip."""
    floats = (*NUMBER_NAMES, *LABELS)
    table = pa.table({k: v.astype(np.float64 if k in floats else np.int64) for k, v in columns.items()})
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP")) as writer:
        for example in encode(table):
            writer.write(example)


def train(contender: Contender, python: Path, task: Task, work: Path) -> dict:
    """Runs a contender's worker and reads what it measured."""
    threads = str(task.threads)
    variables = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
        **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **dict(contender.environment),
    }
    for name in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PYTHONPATH"):
        variables.pop(name, None)
    file, log = work / "task.json", work / f"{contender.name}.log"
    task.write(file)
    with log.open("w") as output:
        done = subprocess.run([python, HERE / contender.script, file], stdout=output, stderr=output, env=variables)
    if done.returncode:
        tail = "".join(log.read_text().splitlines(keepends=True)[-20:])
        raise SystemExit(f"{contender.name} failed on {task.model}, see {log}:\n{tail}")
    return json.loads(Path(task.result).read_text()) | {"predictions": np.load(task.predictions)}


@dataclass(frozen=True)
class AucTerms:
    """DeLong's components of an AUC: per positive row the share of negatives below it, per negative that of
    positives above it. The AUC is the mean of either.

    Reference: DeLong, DeLong, Clarke-Pearson. Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves. Biometrics 44, 1988.
    """

    positive: np.ndarray
    negative: np.ndarray

    @property
    def auc(self) -> float:
        return float(self.positive.mean())


def auc_terms(y: np.ndarray, scores: np.ndarray) -> AucTerms:
    ranks = rankdata(scores)
    is_positive = y == 1
    positive, negative = scores[is_positive], scores[~is_positive]
    above = (ranks[is_positive] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[~is_positive] - rankdata(negative)) / len(positive)
    return AucTerms(above, below)


def difference(own: list[AucTerms], other: list[AucTerms]) -> dict:
    """Mean AUC over the rounds less the other's, with its 95 % interval over the rows."""
    parts = [
        np.mean([getattr(t, side) for t in own], axis=0) - np.mean([getattr(t, side) for t in other], axis=0)
        for side in ("positive", "negative")
    ]
    deviation = np.sqrt(sum(p.var(ddof=1) / len(p) for p in parts))
    mean = float(parts[0].mean())
    return {"mean": mean, "interval_95": [mean - 1.96 * deviation, mean + 1.96 * deviation]}


def summary(runs: dict[str, list[dict]], examples: int, epochs: int) -> dict:
    """Medians over the rounds of one model, and Seesaw against each of the others."""

    def seconds(run: dict, what: str, kind: str) -> float:
        return run["seconds"][what][kind]

    systems = {}
    for name, of_system in runs.items():
        systems[name] = {
            "examples_per_second": float(np.median([examples / seconds(r, "train", "wall") for r in of_system])),
            "epoch_seconds": float(np.median([seconds(r, "train", "wall") / epochs for r in of_system])),
            "epoch_cpu_seconds": float(np.median([seconds(r, "train", "cpu") / epochs for r in of_system])),
            "auc": {
                label: float(np.mean([r["auc_terms"][i].auc for r in of_system])) for i, label in enumerate(LABELS)
            },
            "peak_gib": float(np.median([r["peak_gib"] for r in of_system])),
            "parameters": of_system[0]["parameters"],
            "version": of_system[0]["version"],
            "optimizer": of_system[0]["optimizer"],
        }
        # Each of one pass.
        for what in ("input", "step"):
            if what in of_system[0]["seconds"]:
                systems[name][f"{what}_alone_seconds"] = float(np.median([seconds(r, what, "wall") for r in of_system]))
                systems[name][f"{what}_alone_cpu_seconds"] = float(
                    np.median([seconds(r, what, "cpu") for r in of_system])
                )
    result: dict = {"systems": systems}
    for own in OWN:
        if own not in runs:
            continue
        system = systems[own]
        system["bottleneck"] = "input" if system["input_alone_seconds"] > system["step_alone_seconds"] else "step"
        system["against"] = {}
        for name in [n for n in runs if n not in OWN]:
            # Runs of one round stand side by side in time.
            pairs = list(zip(runs[own], runs[name]))
            times = {
                kind: [seconds(b, "train", kind) / seconds(a, "train", kind) for a, b in pairs]
                for kind in ("wall", "cpu")
            }
            system["against"][name] = {
                "times": float(np.median(times["wall"])),
                "times_by_cpu": float(np.median(times["cpu"])),
                "auc_difference": {
                    label: difference([a["auc_terms"][i] for a, _ in pairs], [b["auc_terms"][i] for _, b in pairs])
                    for i, label in enumerate(LABELS)
                },
            }
    return result


def verdict(models: Iterable[dict], own: str) -> dict[str, bool]:
    """Whether one of Seesaw's contenders met the targets against all others, for every model."""
    comparisons = [c for m in models for c in m["systems"][own]["against"].values()]
    return {
        "at_least_4_times": bool(comparisons) and all(c["times"] >= TARGET for c in comparisons),
        "at_least_4_times_by_cpu": bool(comparisons) and all(c["times_by_cpu"] >= TARGET for c in comparisons),
        "no_auc_significantly_lower": bool(comparisons)
        and all(d["interval_95"][1] >= 0 for c in comparisons for d in c["auc_difference"].values()),
    }


def report(result: dict, console: Console) -> None:
    table = Table(
        title=f"{result['rows']:,} rows, batch {result['batch_size']:,}, {result['epochs']} epoch(s), "
        f"{result['threads']} threads, median of {result['rounds']} rounds",
        box=None,
        header_style="bold",
    )
    for column in (
        "model",
        "system",
        "examples/s",
        "epoch s",
        "CPU s",
        *("Seesaw", "by CPU", "bfloat16", "by CPU"),
        "AUC click",
        "AUC purchase",
    ):
        table.add_column(column, justify="left" if column in ("model", "system") else "right")
    for model, of_model in result["models"].items():
        for name, s in of_model["systems"].items():
            against = [of_model["systems"].get(own, {}).get("against", {}).get(name) for own in OWN]
            table.add_row(
                model,
                name,
                f"{s['examples_per_second']:,.0f}",
                f"{s['epoch_seconds']:.1f}",
                f"{s['epoch_cpu_seconds']:.1f}",
                *(f"{a[kind]:.1f} ×" if a else "" for a in against for kind in ("times", "times_by_cpu")),
                *(f"{s['auc'][label]:.4f}" for label in LABELS),
            )
    console.print(table)
    for model, of_model in result["models"].items():
        for name, s in of_model["systems"].items():
            alone = [
                f"{what} alone {s[f'{what}_alone_seconds']:.1f} s (CPU {s[f'{what}_alone_cpu_seconds']:.1f} s)"
                for what in ("input", "step")
                if f"{what}_alone_seconds" in s
            ]
            bottleneck = [f"the {s['bottleneck']} is the bottleneck"] if "bottleneck" in s else []
            console.print(f"{model}, {name}: " + ", ".join([f"peak {s['peak_gib']:.1f} GiB", *alone, *bottleneck]))
        for own in OWN:
            for name, against in of_model["systems"].get(own, {}).get("against", {}).items():
                differences = [
                    "{} {:+.4f} ({:+.4f} to {:+.4f})".format(label, d["mean"], *d["interval_95"])
                    for label, d in against["auc_difference"].items()
                ]
                console.print(f"{model}, AUC of {own} less that of {name}: {', '.join(differences)}")


if __name__ == "__main__":
    main()
