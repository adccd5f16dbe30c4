"""The funnel: a chain of tasks, each conditional on the step before it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from models.section import Section


class TaskConfig(Section):
    """One step of the funnel, in order: the event that counts and the names of its probabilities.

    The first step's probability is over all exposures; a later step's is conditional on the step
    before, and its `joint` is the product down to it, over all exposures.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the task; its output is 'p' + name.")
    label: str = Field(description="Event that makes the label 1: a name under logs.events.")
    joint: str | None = Field(None, description="Name of the product with the steps before; not for the first step.")


WEIGHT = "weight"
"""Column of the examples with the number of exposures that each stands for, where negatives were sampled."""

DEFAULT_TASKS = (
    TaskConfig(name="ctr", label="click"),
    TaskConfig(name="cvr", label="purchase", joint="ctcvr"),
)


@dataclass(frozen=True)
class Output:
    """A probability that the model gives, and the rows on which it can be judged.

    Attributes:
      task: name without the 'p', such as 'ctcvr'.
      label: column with its 0/1 label.
      given: label column that must be 1 for a row to count; None where all exposures count.
    """

    task: str
    label: str
    given: str | None

    @property
    def name(self) -> str:
        return "p" + self.task


def outputs(tasks: tuple[TaskConfig, ...]) -> tuple[Output, ...]:
    """All probabilities of the chain: per step the conditional, then the joint ones.

    For the default chain: pctr, pcvr (on clicked rows), pctcvr. A step's event only counts when the
    step before it happened, so a joint probability's label is the step's own.
    """
    conditional = [Output(t.name, t.label, tasks[i - 1].label if i else None) for i, t in enumerate(tasks)]
    joint = [Output(t.joint, t.label, None) for t in tasks[1:] if t.joint]
    return tuple(conditional + joint)


def check_tasks(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    """Refuses chains that are too short, repeat a name, or lack a joint name.

    Raises:
      ValueError: naming the task.
    """
    if len(tasks) < 2:
        raise ValueError(f"expected a chain of at least 2 tasks, got {len(tasks)}")
    if tasks[0].joint is not None:
        raise ValueError(f"task '{tasks[0].name}' is the first: expected no joint, got '{tasks[0].joint}'")
    for task in tasks[1:]:
        if task.joint is None:
            raise ValueError(f"task '{task.name}' needs a joint: the name of its product with the steps before")
    for kind, names in (
        ("output", [o.task for o in outputs(tasks)]),
        ("label", [t.label for t in tasks]),
    ):
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ValueError(f"{kind} name '{repeated[0]}' is used twice in the chain")
    return tasks
