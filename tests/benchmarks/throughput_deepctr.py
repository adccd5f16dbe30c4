"""DeepCTR's part of throughput.py: its models at their defaults, `model.fit` on NumPy arrays, compiled with 'adam'.

Its embeddings carry its default L2 of 1e-5. MMOE and PLE have the heads ctr and ctcvr, both over all rows.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from deepctr.feature_column import DenseFeat, SparseFeat
from deepctr.models import ESMM, MMOE, PLE
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


def build(task: Task) -> tf.keras.Model:
    sizes = vocabularies(task.largest)
    columns = [
        SparseFeat(name, sizes[name] + 1, DIMENSION) if name in sizes else DenseFeat(name, 1)
        for name in inputs_of(task.model)
    ]
    if task.model == "mmoe":
        return MMOE(columns, EXPERTS, EXPERT_UNITS, TOWER_UNITS, seed=task.seed)
    if task.model == "ple":
        return PLE(columns, PLE_SHARED_EXPERTS, PLE_TASK_EXPERTS, PLE_LEVELS, EXPERT_UNITS, TOWER_UNITS, seed=task.seed)
    return ESMM(columns, ESMM_UNITS, seed=task.seed)


def features(task: Task, split: str) -> tuple[Columns, list[np.ndarray]]:
    columns = task.columns(split)
    inputs = {n: columns[n].astype(np.int32) if n.startswith("id_") else columns[n] for n in inputs_of(task.model)}
    return inputs, [columns[label] for label in LABELS]


def work(task: Task, clock: Clock) -> tuple[np.ndarray, dict]:
    tf.keras.utils.set_random_seed(task.seed)
    x, y = features(task, "train")
    model = build(task)
    model.compile("adam", loss=["binary_crossentropy", "binary_crossentropy"])
    first = task.warm_up * task.batch_size
    model.fit({k: v[:first] for k, v in x.items()}, [v[:first] for v in y], task.batch_size, verbose=0)
    with clock.measure("train"):
        model.fit(x, y, task.batch_size, epochs=task.epochs, verbose=0)
    held_out, _ = features(task, "held_out")
    predictions = np.stack([p[:, 0] for p in model.predict(held_out, batch_size=8192, verbose=0)])
    optimizer = model.optimizer
    notes = {
        "version": f"deepctr 0.9.4, TensorFlow {tf.__version__}",
        "optimizer": f"{type(optimizer).__module__.split('.')[0]} {type(optimizer).__name__} "
        f"{float(optimizer.learning_rate.numpy()):.3g}, embedding L2 1e-5",
        "parameters": model.count_params(),
    }
    return predictions, notes


if __name__ == "__main__":
    run_worker(work)
