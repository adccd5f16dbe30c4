"""The record of a training run: losses, task weights, how the task gradients lie to each other, use of experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.trainer.plot import plot
from models.ranker import Ranker


class TrainingRecord:
    """Observes a ranker every `log_every` steps: TensorBoard scalars, and all of them as training.json at the end.

    A window is a mapping of names to numbers: the mean losses of its steps, and what the last of them found.

    Args:
      folder: where to write.
      ranker: the ranker.
      log_every: steps of a window. It should be the ranker's `probe_every`, so that each window ends with a look
        at the gradients: at steps 0, n, 2n, ...

    Attributes:
      steps: steps done.
      seconds: time spent in them.
      warm_start: what was carried over from the model in service.
      resumed_at: steps from which the run went on after an interruption.
      evaluation: losses and metrics on the evaluation days.
    """

    def __init__(self, folder: Path, ranker: Ranker, *, log_every: int):
        self.folder = folder
        self.steps = 0
        self.seconds = 0.0
        self.warm_start = ""
        self.resumed_at: list[int] = []
        self.evaluation: dict[str, float] = {}
        self.windows: list[dict[str, Any]] = []
        self._ranker = ranker
        self._log_every = log_every
        self._writer = tf.summary.create_file_writer(str(folder))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {name: getattr(self, name) for name in ("steps", "seconds", "warm_start", "resumed_at", "windows")}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state; the windows so far go to TensorBoard once more, for the folder may be a new one."""
        for name, value in state.items():
            setattr(self, name, value)
        self.resumed_at = [*self.resumed_at, self.steps]
        for window in self.windows:
            self._to_tensorboard(window)

    def after_step(self) -> None:
        """Notes the end of a step."""
        if self.steps % self._log_every == 0:
            window = self._window()
            self.windows.append(window)
            self._to_tensorboard(window)
            for mean in self._ranker.loss_means:
                mean.reset_state()
        self.steps += 1

    def write(self) -> None:
        """Writes training.json and training.png, and closes the TensorBoard events."""
        written = self.document()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "training.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
        plot(written, self.folder / "training.png")
        self._writer.close()

    def document(self) -> dict[str, Any]:
        """What training.json holds."""
        ranker = self._ranker
        names = self._tasks
        return {
            "tasks": names,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "warm_start": self.warm_start,
            "resumed_at": self.resumed_at,
            "evaluation": self.evaluation,
            "gradient_probes": int(ranker.probes.numpy()),
            "conflict_rate": self._conflict_rate(),
            "left_out": {name: int(n) for name, n in zip(names, ranker.left_out.numpy())},
            "gates": {
                name: {
                    "use": [float(share) for share in use.numpy()],
                    "entropy": float(ranker.gate_entropy[name].numpy()),
                }
                for name, use in ranker.gate_use.items()
            },
            "summary": {
                "weights": {name: float(w) for name, w in zip(names, ranker.task_weights.numpy())},
                "mean_cosine": {
                    pair: float(np.mean(found)) if (found := self._all(f"cosine_{pair}")) else None
                    for pair in self._pairs()
                },
                "conflict_rate": self._conflict_rate(),
            },
            "windows": self.windows,
        }

    def _window(self) -> dict[str, Any]:
        ranker, names = self._ranker, self._tasks
        window: dict[str, Any] = {"step": self.steps}
        window |= {mean.name: float(mean.result().numpy()) for mean in ranker.loss_means}
        window |= {f"weight_{n}": float(w) for n, w in zip(names, ranker.task_weights.numpy())}
        window |= {f"left_out_{n}": int(x) for n, x in zip(names, ranker.left_out.numpy())}
        if ranker.probes.numpy() > 0:
            gram = ranker.last_gram.numpy().astype(np.float64)
            norms = np.sqrt(np.diag(gram))
            window |= {f"gradient_norm_{n}": float(x) for n, x in zip(names, norms)}
            for pair, (i, j) in self._pairs().items():
                # A zero gradient, as of a task without a row in the batch, has no direction.
                if norms[i] > 0 and norms[j] > 0:
                    window[f"cosine_{pair}"] = float(gram[i, j] / (norms[i] * norms[j]))
            window |= {f"conflict_rate_{pair}": rate for pair, rate in self._conflict_rate().items()}
        for gate, use in ranker.gate_use.items():
            window |= {f"gate_{gate}_{e}": float(share) for e, share in enumerate(use.numpy())}
            window[f"gate_entropy_{gate}"] = float(ranker.gate_entropy[gate].numpy())
        return window

    def _to_tensorboard(self, window: dict[str, Any]) -> None:
        with self._writer.as_default(step=window["step"]):
            for name, value in window.items():
                if name != "step":
                    tf.summary.scalar(name, value)

    def _conflict_rate(self) -> dict[str, float | None]:
        """Per pair of tasks, the share of the looks at which their gradients pointed against each other."""
        probes, conflicts = float(self._ranker.probes.numpy()), self._ranker.conflicts.numpy()
        return {pair: float(conflicts[i, j]) / probes if probes else None for pair, (i, j) in self._pairs().items()}

    def _pairs(self) -> dict[str, tuple[int, int]]:
        names = self._tasks
        return {f"{names[j]}_{names[i]}": (i, j) for i in range(len(names)) for j in range(i)}

    def _all(self, name: str) -> list[float]:
        return [window[name] for window in self.windows if name in window]

    @property
    def _tasks(self) -> list[str]:
        return [t.name for t in self._ranker.tasks]
