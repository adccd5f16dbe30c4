"""Balancers: from losses and the Gram matrix of the task gradients to task weights.

A new balancer is a file here, its name in the union below, and a row in the contract test.
"""

from typing import Annotated, Union

from pydantic import Field

from models.balancing.base import Balancer, GramBalancer, Needs, Run, State, Weights
from models.balancing.dwa import DWA
from models.balancing.famo import FAMO
from models.balancing.gradnorm import GradNorm
from models.balancing.htw import HTW
from models.balancing.random_weighting import RandomWeighting
from models.balancing.static import Static
from models.balancing.uncertainty import Uncertainty

AnyBalancer = Annotated[
    Union[Static, Uncertainty, DWA, HTW, GradNorm, FAMO, RandomWeighting], Field(discriminator="name")
]

__all__ = [
    "DWA",
    "FAMO",
    "HTW",
    "AnyBalancer",
    "Balancer",
    "GradNorm",
    "GramBalancer",
    "Needs",
    "RandomWeighting",
    "Run",
    "State",
    "Static",
    "Uncertainty",
    "Weights",
]
