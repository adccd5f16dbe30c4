"""torch-rechub's part of throughput.py: DataGenerator and MTLTrainer at their defaults, as its examples have it.

Adam with rate 0.001 and weight decay 1e-5, batch normalisation in every dense layer. MMOE and PLE have the heads
click and purchase, both over all rows. Its ESMM takes id features only, and labels (cvr, ctr, ctcvr).
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from throughput_common import (
    DIMENSION,
    ESMM_UNITS,
    EXPERT_UNITS,
    EXPERTS,
    LABELS,
    PLE_LEVELS,
    PLE_SHARED_EXPERTS,
    PLE_TASK_EXPERTS,
    TOWER_UNITS,
    Clock,
    Columns,
    Task,
    inputs_of,
    run_worker,
    vocabularies,
)
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator


def build(task: Task) -> torch.nn.Module:
    sizes = vocabularies(task.largest)
    features = [
        SparseFeature(name, sizes[name] + 1, DIMENSION) if name in sizes else DenseFeature(name)
        for name in inputs_of(task.model)
    ]
    types = ["classification"] * 2
    experts, towers = {"dims": list(EXPERT_UNITS)}, [{"dims": list(TOWER_UNITS)}] * 2
    if task.model == "mmoe":
        return MMOE(features, types, EXPERTS, experts, towers)
    if task.model == "ple":
        return PLE(features, types, PLE_LEVELS, PLE_TASK_EXPERTS, PLE_SHARED_EXPERTS, experts, towers)
    half = len(features) // 2
    tower = {"dims": list(ESMM_UNITS)}
    return ESMM(features[:half], features[half:], cvr_params=tower, ctr_params=tower)


def inputs(task: Task, split: str) -> tuple[Columns, np.ndarray]:
    columns = task.columns(split)
    click, purchase = (columns[label] for label in LABELS)
    labels = (purchase, click, purchase) if task.model == "esmm" else (click, purchase)
    return {n: columns[n] for n in inputs_of(task.model)}, np.stack(labels, axis=1)


def work(task: Task, clock: Clock) -> tuple[np.ndarray, dict]:
    torch.manual_seed(task.seed)
    torch.set_num_threads(task.threads)
    x, y = inputs(task, "train")
    held_out, held_out_labels = inputs(task, "held_out")

    def loader(rows: int) -> torch.utils.data.DataLoader:
        data = DataGenerator({k: v[:rows] for k, v in x.items()}, y[:rows])
        return data.generate_dataloader(
            x_val=held_out, y_val=held_out_labels, x_test=held_out, y_test=held_out_labels, batch_size=task.batch_size
        )[0]

    model = build(task)
    trainer = MTLTrainer(model, ["classification"] * y.shape[1], n_epoch=task.epochs)
    trainer.train_one_epoch(loader(task.warm_up * task.batch_size))
    batches = loader(len(y))
    with clock.measure("train"):
        for _ in range(task.epochs):
            trainer.train_one_epoch(batches)
    with clock.measure("input"):
        for _ in batches:
            pass
    model.eval()
    scores = []
    with torch.no_grad():
        for start in range(0, len(held_out_labels), 8192):
            part = {k: torch.from_numpy(v[start : start + 8192]) for k, v in held_out.items()}
            scores.append(model(part)[:, -2:].numpy())
    notes = {
        "version": f"torch-rechub {version('torch-rechub')}, PyTorch {torch.__version__}",
        "optimizer": "Adam 0.001, weight decay 1e-5",
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return np.concatenate(scores).T, notes


if __name__ == "__main__":
    run_worker(work)
