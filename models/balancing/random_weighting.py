"""Random loss weighting: new random task weights at every step, the other baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf

from models.balancing.base import Balancer, Needs, State, Weights


class RandomWeighting(Balancer):
    """w = K softmax(x), with x standard normal and new at every step.

    The paper's weights sum to 1; times K they have mean 1 and sum to K as those of the plain sum do, so that
    learning rates carry over. The same seed gives the same weights.

    Reference: Lin, Ye, Zhang, Tsang. Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
      Learning. TMLR 2022.
    """

    needs: ClassVar[Needs] = Needs.LOSSES

    name: Literal["random_weighting"]

    def weigh(
        self, losses: tf.Tensor, gram: tf.Tensor, state: State, *, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Weights, State]:
        # One algorithm named, because the default depends on the device.
        normal = tf.random.stateless_normal(losses.shape, seed, alg="philox")
        weights = float(losses.shape[0]) * tf.nn.softmax(normal)
        return Weights(weights, weights), state
