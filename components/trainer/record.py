"""The record of a training run: losses, task weights and how the task gradients lie to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from models.section import UserError


class TrainingRecord(keras.callbacks.Callback):
    """Writes TensorBoard scalars every `log_every` steps, and all of them as training.json at the end.

    Raises:
      UserError: when a task's loss is not finite, which no later step would mend.
    """

    def __init__(self, folder: Path, *, log_every: int):
        super().__init__()
        self.folder = folder
        self.log_every = log_every
        self.steps = 0
        self.seconds = 0.0
        self.warm_start = ""
        self.evaluation: dict[str, float] = {}
        self.windows: list[dict[str, Any]] = []
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # The look at the gradients is taken at steps 0, n, 2n, ...: this is the end of such a step.
        if self.steps % self.log_every == 0:
            self._observe(logs or {})
        self.steps += 1

    def refuse_divergence(self, losses: dict[str, float]) -> None:
        """Stops a training run whose losses are no longer numbers.

        Raises:
          UserError: naming the loss and the step.
        """
        bad = [name for name, value in losses.items() if not np.isfinite(value)]
        if bad:
            raise UserError(
                f"training diverged: {bad[0]} is {losses[bad[0]]} at step {self.steps}; a smaller "
                f"optimizer.dense.learning_rate or optimizer.embedding.learning_rate, or optimizer.clip_norm, may help"
            )

    def _observe(self, losses: dict[str, float]) -> None:
        self.refuse_divergence(losses)
        names = [t.name for t in self.model.tasks]
        gram = self.model.last_gram.numpy().astype(np.float64)
        norms = np.sqrt(np.diag(gram))
        scalars = {name: float(value) for name, value in losses.items()}
        scalars |= {f"weight_{n}": float(w) for n, w in zip(names, self.model.task_weights.numpy())}
        scalars |= {f"gradient_norm_{n}": float(x) for n, x in zip(names, norms)}
        for i in range(len(names)):
            for j in range(i):
                scale = norms[i] * norms[j]
                scalars[f"cosine_{names[j]}_{names[i]}"] = float(gram[i, j] / scale) if scale > 0 else 0.0
        self.windows.append({"step": self.steps, **scalars})
        with self._writer.as_default(step=self.steps):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    def write(self) -> None:
        """Writes training.json and closes the TensorBoard events."""
        names = [t.name for t in self.model.tasks]
        probes = float(self.model.probes.numpy())
        conflicts = self.model.conflicts.numpy()
        summary = {
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "warm_start": self.warm_start,
            "evaluation": self.evaluation,
            "gradient_probes": int(probes),
            "conflict_rate": {
                f"{names[j]}_{names[i]}": float(conflicts[i, j]) / probes if probes else None
                for i in range(len(names))
                for j in range(i)
            },
            "windows": self.windows,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "training.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        self._writer.close()
