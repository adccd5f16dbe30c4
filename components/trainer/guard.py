"""What is done about losses and gradients that are not finite."""

from __future__ import annotations

import numpy as np
from absl import logging

from models.section import UserError

_ADVICE = (
    "a smaller optimizer.dense.learning_rate or optimizer.embedding.learning_rate, or optimizer.clip_norm, may help"
)


class FiniteGuard:
    """Warns when a task is first left out of a step, and ends the run when that happens too often.

    Args:
      tasks: names of the tasks.
      most: steps that a task may be left out of.
      before: [K], steps that each task was left out of before a resumed run goes on.
    """

    def __init__(self, tasks: tuple[str, ...], most: int, before: np.ndarray):
        self._tasks = tasks
        self._most = most
        self._seen = before

    def check(self, left_out: np.ndarray, step: int) -> None:
        """Looks at a step.

        Args:
          left_out: [K], steps that each task was left out of so far.
          step: number of the step.

        Raises:
          UserError: naming the task and the step.
        """
        if np.array_equal(left_out, self._seen):
            return
        for task, before, now in zip(self._tasks, self._seen, left_out):
            if before == 0 and now > 0:
                logging.warning("The loss or gradient of task %s is not finite at step %d: it is left out.", task, step)
        self._seen = left_out
        worst = int(np.argmax(left_out))
        if left_out[worst] > self._most:
            raise UserError(
                f"training diverged: the loss or gradient of task {self._tasks[worst]} was not finite in "
                f"{int(left_out[worst])} steps, the last of them step {step}, and training.max_left_out is "
                f"{self._most}; {_ADVICE}, unless a number feature is infinite"
            )


def refuse_divergence(losses: dict[str, float]) -> None:
    """Refuses a ranker whose losses on the evaluation days are no numbers.

    Raises:
      UserError: naming the loss.
    """
    for name, value in losses.items():
        if not np.isfinite(value):
            raise UserError(f"training diverged: {name} is {value} on the evaluation days; {_ADVICE}")
