"""The recommendation of a sweep in words, for the screen and the page."""

from __future__ import annotations

from components.pages import Tone
from pipeline.sweep.findings import Interval
from pipeline.sweep.run import PointFinding, Sweep


def headline(found: Sweep) -> tuple[str, list[str], Tone]:
    """The recommendation in a sentence, its reasons, and its tone."""
    made = found.recommendation
    if made is None:
        return "No recommendation: the trainings with tuned static weights failed", [], "bad"
    point, reference = found.points[made.point], found.points[made.reference]
    detectable = ", ".join(f"{t} {d:.4f}" for t, d in zip(found.objectives, made.detectable))
    reasons = []
    if made.point == made.reference:
        title = f"Take {described(reference)}"
        reasons.append(
            "No other point of the grid is shown to be better: with 95 % confidence over all of them together, none "
            f"gains AUC on a task and loses at most {found.tolerance:g} on every other."
        )
        best = max(range(len(found.points)), key=lambda i: found.points[i].best)
        if best != made.reference:
            reasons.append(
                f"The highest mean AUC is that of {described(found.points[best])}; it comes out highest in "
                f"{percent(found.points[best].best)} of the replicates, {described(reference)} in "
                f"{percent(reference.best)}."
            )
        else:
            reasons.append(f"It comes out highest in {percent(reference.best)} of the replicates.")
    else:
        title = f"Take {described(point)}"
        gains = "; ".join(f"{t} AUC {interval(d)}" for t, d in zip(found.objectives, made.differences))
        reasons.append(f"Against {described(reference)}: {gains} (95 %, over all points of the grid together).")
        others = [i for i in made.qualified if i != made.point]
        if others:
            names = ", ".join(described(found.points[i]) for i in others[:4]) + (", …" if len(others) > 4 else "")
            reasons.append(f"Also shown to be better, with a smaller mean gain: {names}.")
        reasons.append(f"It has the highest mean AUC in {percent(point.best)} of the replicates.")
    if detectable:
        reasons.append(f"Differences smaller than about these cannot be told from none here: {detectable}.")
    worse = negative_transfer(point)
    if worse:
        reasons.append(
            f"Beware of negative transfer: {', '.join(worse)} is worse than with a model of that task alone."
        )
    if found.seeds == 1:
        reasons.append("With one seed the intervals leave out how the training happened to go.")
    if found.failures:
        reasons.append(f"{len(found.failures)} of {found.trainings} trainings failed and are left out.")
    return title, reasons, "plain" if made.point == made.reference else "good"


def described(point: PointFinding) -> str:
    """A point in words, with its weights where they were tuned."""
    if point.weights is None:
        return f"{point.model} with {point.balancer}"
    return f"{point.model} with static weights {' : '.join(f'{w:g}' for w in point.weights.values())}"


def negative_transfer(point: PointFinding) -> list[str]:
    """The tasks on which a point is shown to be worse than the model of the task alone."""
    return [task for task, gain in (point.to_single or {}).items() if gain.high < 0]


def signed(value: float) -> str:
    """A difference of AUC, with a real minus sign."""
    return f"{round(value, 4) + 0.0:+.4f}".replace("-", "−")


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def interval(found: Interval) -> str:
    return f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"
