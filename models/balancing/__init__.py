"""Balancers: from losses and the Gram matrix of the task gradients to task weights.

A new balancer is a file here, its name in the union below, and a row in the contract test.
"""

from typing import Annotated, Union

from pydantic import Field

from models.balancing.base import Balancer, GramBalancer, Needs, Run, State, Weights
from models.balancing.static import Static
from models.balancing.uncertainty import Uncertainty

AnyBalancer = Annotated[Union[Static, Uncertainty], Field(discriminator="name")]

__all__ = [
    "AnyBalancer",
    "Balancer",
    "GramBalancer",
    "Needs",
    "Run",
    "State",
    "Static",
    "Uncertainty",
    "Weights",
]
