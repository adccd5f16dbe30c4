"""PyTorch's part of train_step.py: PCGrad of TorchJD and of LibMTL on an equal model.

It runs with the Python of an environment of its own. The model, its sizes, the ids and the optimizers (Adagrad for the
tables, Adam for the rest) are those of train_step.py; the tables have all their rows. The contenders:
- `plain`: `nn.Embedding(sparse=True)`, the summed loss, Adagrad over the rows of the batch.
- `plain, dense`: the same with dense gradients of the tables, which both libraries need: TorchJD's Jacobians
  are flattened and concatenated, LibMTL copies every gradient into one vector.
- `torchjd pcgrad`: `autojac.mtl_backward` and `jac_to_grad`, as its documentation has multi-task learning.
- `torchjd pcgrad, gramian`: with `optimize_gramian_computation`, which leaves out the concatenation.
- `libmtl pcgrad`: `LibMTL.weighting.PCGrad` as a base class of the model, as its Trainer does it.
Dense steps use the fused optimizers. Shared are the tables and the experts; gates and towers are a task's own.

LibMTL's release on PyPI is of 2021. Two things let it run on today's PyTorch: the name of a function that torchvision
has moved, which only LibMTL's ResNet calls, and gradients that are set to zero and not to None.

    python tests/benchmarks/train_step_torch.py --tasks 2 --contenders plain "torchjd pcgrad"

The last line printed is JSON: CPU and wall seconds per step of each contender, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from throughput_common import peak_gib
from torch import Tensor, nn

CONTENDERS = ("plain", "plain, dense", "torchjd pcgrad", "torchjd pcgrad, gramian", "libmtl pcgrad")
BATCH = 4096
IDS, NUMBERS, DIMENSION = 20, 10, 16
EXPERTS, UNITS, TOWER = 4, (256, 128), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)

    bench = Bench(arguments.tasks)
    steps, failed = {}, {}
    for name in arguments.contenders:
        try:
            steps[name] = bench.step(name)
            for batch in bench.batches[:2]:
                steps[name](*batch)
        except Exception as error:  # whatever a library raises on today's PyTorch is its result
            steps.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    result = {
        "threads": torch.get_num_threads(),
        "rows": sum(t.num_embeddings for t in bench.model.tables),
        "versions": versions(),
        "failed": failed,
        "steps": measure(steps, bench.batches, arguments.turns, arguments.steps),
        "peak_mib": round(peak_gib() * 1024),
    }
    print(json.dumps(result))


def versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "torchjd", "libmtl"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Model(nn.Module):
    """MMoE: experts over what is shared, and a gate and a tower for each task."""

    def __init__(self, tasks: int, sizes: np.ndarray):
        super().__init__()
        width = IDS * DIMENSION + NUMBERS
        self.tables = nn.ModuleList(nn.Embedding(int(n) + 2, DIMENSION) for n in sizes)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, UNITS[0]), nn.ReLU(), nn.Linear(UNITS[0], UNITS[1]), nn.ReLU())
            for _ in range(EXPERTS)
        )
        self.gates = nn.ModuleList(nn.Linear(width, EXPERTS) for _ in range(tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(UNITS[1], TOWER), nn.ReLU(), nn.Linear(TOWER, 1)) for _ in range(tasks)
        )

    def embed(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return torch.cat([*(table(ids[:, i]) for i, table in enumerate(self.tables)), numbers], dim=1)

    def shared(self, ids: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """What every task reads: the trunk's input and the experts' outputs, neither of which depends on the other."""
        x = self.embed(ids, numbers)
        return x.clone(), torch.stack([expert(x) for expert in self.experts], dim=1)

    def losses(self, x: Tensor, experts: Tensor, labels: Tensor) -> list[Tensor]:
        found = []
        for k, (gate, tower) in enumerate(zip(self.gates, self.towers)):
            mixed = torch.einsum("be,beu->bu", torch.softmax(gate(x), dim=1), experts)
            found.append(nn.functional.binary_cross_entropy_with_logits(tower(mixed)[:, 0], labels[:, k]))
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.tables.parameters(), *self.experts.parameters()]


class Bench:
    """The contenders of one number of tasks, which share the model."""

    def __init__(self, tasks: int, seed: int = 0):
        sizes = np.geomspace(10_000, 1_000_000, IDS).astype(int)
        self.tasks = tasks
        self.model = Model(tasks, sizes)
        self.batches = [self._batch(np.random.default_rng(seed + i), sizes) for i in range(4)]
        self._optimizers: dict[bool, list[torch.optim.Optimizer]] = {}

    def _batch(self, rng: np.random.Generator, sizes: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        ids = np.stack([1 + np.exp(rng.random(BATCH) * np.log(n)).astype(np.int64) for n in sizes], axis=1)
        numbers = rng.normal(size=(BATCH, NUMBERS)).astype(np.float32)
        labels = np.cumprod(rng.random((BATCH, self.tasks)) < 0.5, axis=1).astype(np.float32)
        return torch.from_numpy(ids), torch.from_numpy(numbers), torch.from_numpy(labels)

    def step(self, name: str) -> Callable[[Tensor, Tensor, Tensor], None]:
        sparse = name == "plain"
        backward = {"torchjd": self._torchjd, "libmtl": self._libmtl}.get(name.split()[0], self._plain)(name)
        if sparse not in self._optimizers:
            tables = list(self.model.tables.parameters())
            rest = [p for n, p in self.model.named_parameters() if not n.startswith("tables.")]
            # A fused Adagrad takes no sparse gradients.
            adagrad = torch.optim.Adagrad(tables, lr=0.01, initial_accumulator_value=1e-8, fused=not sparse or None)
            self._optimizers[sparse] = [adagrad, torch.optim.Adam(rest, lr=0.001, eps=1e-7, fused=True)]

        def step(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
            for table in self.model.tables:
                table.sparse = sparse
            backward(ids, numbers, labels)
            for optimizer in self._optimizers[sparse]:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)

        return step

    def _plain(self, _: str) -> Callable[[Tensor, Tensor, Tensor], None]:
        def backward(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
            torch.stack(self.model.losses(*self.model.shared(ids, numbers), labels)).sum().backward()

        return backward

    def _torchjd(self, name: str) -> Callable[[Tensor, Tensor, Tensor], None]:
        from torchjd.aggregation import PCGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        aggregator, by_gramian = PCGrad(), name.endswith("gramian")

        def backward(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
            features = self.model.shared(ids, numbers)
            mtl_backward(self.model.losses(*features, labels), features=features)
            shared = self.model.shared_parameters()
            jac_to_grad(shared, aggregator, optimize_gramian_computation=by_gramian)

        return backward

    def _libmtl(self, _: str) -> Callable[[Tensor, Tensor, Tensor], None]:
        moved = types.ModuleType("torchvision.models.utils")
        moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url
        sys.modules.setdefault(moved.__name__, moved)
        from LibMTL.weighting import PCGrad

        model = self.model

        class Weighting(PCGrad):
            rep_grad, task_num, device = False, self.tasks, torch.device("cpu")

            def get_share_params(self) -> list[nn.Parameter]:
                return model.shared_parameters()

            def zero_grad_share_params(self) -> None:
                for parameter in model.shared_parameters():
                    parameter.grad.zero_()

        weighting = Weighting()

        def backward(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
            weighting.backward(model.losses(*model.shared(ids, numbers), labels))

        return backward


def measure(steps: dict, batches: list, turns: int, steps_of_turn: int) -> dict[str, dict[str, float]]:
    """Median CPU and wall seconds per step of every contender; they take turns."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    order = list(steps)
    rng = np.random.default_rng(0)
    for turn in range(turns):
        rng.shuffle(order)
        for name in order:
            cpu, wall = time.process_time(), time.perf_counter()
            for i in range(steps_of_turn):
                steps[name](*batches[(turn + i) % len(batches)])
            measured[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {n: np.median(np.array(t), axis=0) / steps_of_turn for n, t in measured.items() if t}
    return {name: {"cpu": float(cpu), "wall": float(wall)} for name, (cpu, wall) in medians.items()}


if __name__ == "__main__":
    main()
