"""Dynamic weight average: a task whose loss falls more slowly weighs more."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf
from pydantic import Field, PositiveFloat, PositiveInt

from models.balancing.base import Balancer, Needs, Run, State, Weights
from models.balancing.ratio import loss_ratio

_EPOCHS_FOR_EPOCHS = 4
_PERIODS_PER_EPOCH = 10


class DWA(Balancer):
    """w_k = K softmax(r_k / T), with r_k = L_k(t-1) / L_k(t-2) over the means of the last two periods.

    Weights are 1 in the first two periods, constant within a period, and sum to K. The paper's period is an
    epoch, which never acts where training lasts one or two: `period_steps` left out is an epoch in a run of 4
    epochs or more, and a tenth of an epoch (of the run, if that is shorter) otherwise. A loss that was 0, as all
    are before the first period, gives r_k = 1.

    State: `mean` [K] and `count` of the period under way, `last` [K] and `before_last` [K] the means of the two
    before it (0 where there is none), and `period_steps`.

    Example:
      >>> float(DWA(name="dwa").initial_state(Run(("ctr", "cvr"), steps=500, steps_per_epoch=500))["period_steps"])
      50.0

    Reference: Liu, Johns, Davison. End-to-End Multi-Task Learning with Attention. CVPR 2019.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["dwa"]
    temperature: PositiveFloat = Field(2.0, description="Higher is nearer to equal weights.")
    period_steps: PositiveInt | None = Field(
        None,
        description="Steps of a period; left out, an epoch where there are at least 4, and a tenth of one otherwise.",
    )

    def initial_state(self, run: Run) -> State:
        period = self.period_steps
        if period is None and run.steps >= _EPOCHS_FOR_EPOCHS * run.steps_per_epoch:
            period = run.steps_per_epoch
        elif period is None:
            period = max(1, min(run.steps, run.steps_per_epoch) // _PERIODS_PER_EPOCH)
        zeros = tf.zeros([len(run.tasks)], tf.float32)
        return {
            "mean": zeros,
            "count": tf.constant(0.0),
            "last": zeros,
            "before_last": zeros,
            "period_steps": tf.constant(float(period)),
        }

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        ratio = loss_ratio(state["last"], state["before_last"])
        # Less the largest before the division, so that no temperature overflows.
        weights = float(losses.shape[0]) * tf.nn.softmax((ratio - tf.reduce_max(ratio)) / self.temperature)

        # A running mean: a float32 sum over a long epoch would drop the last digits of every loss.
        count = state["count"] + 1.0
        mean = state["mean"] + (losses - state["mean"]) / count
        over = count >= state["period_steps"]
        return Weights(weights, weights), {
            "mean": tf.where(over, tf.zeros_like(mean), mean),
            "count": tf.where(over, 0.0, count),
            "last": tf.where(over, mean, state["last"]),
            "before_last": tf.where(over, state["last"], state["before_last"]),
            "period_steps": state["period_steps"],
        }
