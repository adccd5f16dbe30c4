"""What must hold of every model's scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.tasks import TaskConfig

_ROUNDING = 1e-6


def wrong_scores(scores: Mapping[str, np.ndarray], tasks: tuple[TaskConfig, ...], signature: str) -> list[str]:
    """A line for each thing that is wrong: a number that is none, a probability out of range, a product over a factor.

    Args:
      scores: by output, [rows].
      tasks: the chain.
      signature: what gave them.
    """
    found = []
    for task in tasks:
        for name in filter(None, (task.name, task.joint)):
            values = scores.get(f"p{name}")
            if values is None:
                found.append(f"{signature}: expected an output 'p{name}', got {', '.join(sorted(scores))}")
                continue
            for wrong, what in (
                (~np.isfinite(values), "finite numbers"),
                ((values < 0) | (values > 1), "probabilities from 0 to 1"),
            ):
                if wrong.any():
                    found.append(
                        f"{signature}: expected {what} as p{name}, got {values[wrong][0]:g} in {int(wrong.sum()):,} of "
                        f"{len(values):,} rows"
                    )
                    break
    if found:
        return found
    least = scores[f"p{tasks[0].name}"]
    for task in tasks[1:]:
        least = np.minimum(least, scores[f"p{task.name}"])
        product = scores[f"p{task.joint}"]
        over = product > least + _ROUNDING
        if over.any():
            found.append(
                f"{signature}: expected p{task.joint} to be at most each of its factors, got {product[over][0]:g} over "
                f"{least[over][0]:g} in {int(over.sum()):,} of {len(product):,} rows"
            )
    return found
