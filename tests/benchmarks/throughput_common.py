"""What the contenders of throughput.py share: the data, the sizes, the clock. Needs NumPy only.

Each contender is a script that runs in an environment of its own, as
`python throughput_NAME.py TASK.json`: it reads the task, trains one epoch after another, and writes predictions
and measurements to the paths that the task names.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

IDS = 20
NUMBERS = 10
DIMENSION = 16
SMALLEST_VOCABULARY = 10_000
LABELS = ("click", "purchase")
MODELS = ("mmoe", "ple", "esmm")

EXPERTS = 4
EXPERT_UNITS = (256, 128)
TOWER_UNITS = (64,)
PLE_LEVELS = 2
PLE_TASK_EXPERTS = 1
PLE_SHARED_EXPERTS = 2
ESMM_UNITS = (256, 128)

ID_NAMES = tuple(f"id_{i:02d}" for i in range(IDS))
NUMBER_NAMES = tuple(f"number_{i:02d}" for i in range(NUMBERS))

Columns = dict[str, np.ndarray]


def inputs_of(model: str) -> tuple[str, ...]:
    """Features of a model: torch-rechub's ESMM reads no numbers, so that of the others does not either."""
    return ID_NAMES if model == "esmm" else ID_NAMES + NUMBER_NAMES


def vocabularies(largest: int) -> dict[str, int]:
    """Known ids of each feature, 1 to this many; evenly spaced on a log scale."""
    sizes = np.geomspace(min(SMALLEST_VOCABULARY, largest), largest, IDS).round().astype(int)
    return dict(zip(ID_NAMES, sizes.tolist()))


def make_data(rows: int, largest: int, seed: int) -> Columns:
    """Impressions with a click and, among clicked ones, a purchase.

    Ids are drawn with p(id) ~ id^-1.05. The logit of either label is a sum of effects of each id, of inner
    products of four-dimensional factors of pairs of ids, and of the numbers; half of what moves purchases is
    what moves clicks.
    """
    rng = np.random.default_rng(seed)
    columns: Columns = {}
    power = -0.05
    effects = np.zeros((2, rows), np.float32)
    factors = []
    for name, size in vocabularies(largest).items():
        # The inverse of the distribution function of a continuous power law on [1, size + 1).
        u = rng.random(rows)
        ids = np.minimum(np.floor((1 + u * ((size + 1) ** power - 1)) ** (1 / power)), size).astype(np.int64)
        columns[name] = ids
        click, purchase = rng.standard_normal((2, size + 1), np.float32)
        effects += np.stack([click[ids], (click[ids] + purchase[ids]) / np.sqrt(np.float32(2))])
        if len(factors) < 8:
            factors.append(rng.standard_normal((size + 1, 4), np.float32)[ids])
    effects *= 0.9 / np.sqrt(IDS)
    for k in range(2):
        for left, right in zip(factors[k::2][::2], factors[k::2][1::2]):
            effects[k] += 0.25 * (left * right).sum(axis=1)
    numbers = rng.standard_normal((rows, NUMBERS), np.float32)
    columns.update(zip(NUMBER_NAMES, numbers.T.copy()))
    effects += 0.6 / np.sqrt(NUMBERS) * (numbers @ rng.standard_normal((NUMBERS, 2), np.float32)).T
    effects[0] += 0.4 * np.tanh(numbers[:, 0] * numbers[:, 1])
    click = rng.random(rows) < 1 / (1 + np.exp(1.2 - effects[0]))
    purchase = click & (rng.random(rows) < 1 / (1 + np.exp(1.0 - effects[1])))
    columns.update(click=click.astype(np.float32), purchase=purchase.astype(np.float32))
    return columns


@dataclass(frozen=True)
class Task:
    """One run of one contender.

    Attributes:
      model: mmoe, ple or esmm.
      rows: training rows.
      train: .npz of the training rows; held_out: that of the others.
      examples: pattern of the training rows as tf.Examples; warm_up_examples: that of the warm-up's.
      largest: the largest vocabulary.
      warm_up: batches to train on before the clock starts.
      precision: float32 or mixed_bfloat16, where the contender has the choice.
      predictions: where to write float32 [2, held-out rows]: p(click), p(click and purchase).
      result: where to write the measurements.
    """

    model: str
    rows: int
    train: str
    held_out: str
    examples: str
    warm_up_examples: str
    largest: int
    batch_size: int
    epochs: int
    warm_up: int
    threads: int
    seed: int
    precision: str
    predictions: str
    result: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def columns(self, split: str) -> Columns:
        with np.load(self.train if split == "train" else self.held_out) as file:
            return {name: file[name] for name in (*inputs_of(self.model), *LABELS)}


class Clock:
    """Wall and CPU seconds of named stretches; CPU of all threads of the process."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.seconds[name] = {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}


def run_worker(work: Callable[[Task, Clock], tuple[np.ndarray, dict]]) -> None:
    """Runs a contender on the task named on the command line.

    `work` returns the predictions and what else to note; it measures 'train', all epochs, and may measure
    'input', one pass over its input without training.
    """
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    # The variables are set by whoever starts this process, before any library reads them.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])
    clock = Clock()
    predictions, notes = work(task, clock)
    np.save(task.predictions, np.asarray(predictions, np.float32))
    Path(task.result).write_text(json.dumps({"seconds": clock.seconds, "peak_gib": peak_gib(), **notes}))


def peak_gib() -> float:
    """Largest resident set of this process. Not getrusage's, which starts from that of the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
