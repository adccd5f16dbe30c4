"""Balancers: from losses and the Gram matrix of the task gradients to task weights.

A new balancer is a file here, its name in the union below, and a row in the contract test.
"""

from typing import Annotated, Union

from pydantic import Field

from models.balancing.aligned_mtl import AlignedMTL
from models.balancing.base import Balancer, GramBalancer, Needs, Run, State, Weights
from models.balancing.cagrad import CAGrad
from models.balancing.dwa import DWA
from models.balancing.famo import FAMO
from models.balancing.gradnorm import GradNorm
from models.balancing.gradvac import GradVac
from models.balancing.htw import HTW
from models.balancing.imtl_g import IMTLG
from models.balancing.mgda import MGDA
from models.balancing.nash_mtl import NashMTL
from models.balancing.pcgrad import PCGrad
from models.balancing.pe_ltr import PELTR
from models.balancing.random_weighting import RandomWeighting
from models.balancing.static import Static
from models.balancing.uncertainty import Uncertainty

AnyBalancer = Annotated[
    Union[
        Static,
        Uncertainty,
        DWA,
        HTW,
        GradNorm,
        FAMO,
        RandomWeighting,
        MGDA,
        PELTR,
        PCGrad,
        GradVac,
        CAGrad,
        NashMTL,
        IMTLG,
        AlignedMTL,
    ],
    Field(discriminator="name"),
]

__all__ = [
    "DWA",
    "FAMO",
    "HTW",
    "IMTLG",
    "MGDA",
    "PELTR",
    "AlignedMTL",
    "AnyBalancer",
    "Balancer",
    "CAGrad",
    "GradNorm",
    "GradVac",
    "GramBalancer",
    "NashMTL",
    "Needs",
    "PCGrad",
    "RandomWeighting",
    "Run",
    "State",
    "Static",
    "Uncertainty",
    "Weights",
]
