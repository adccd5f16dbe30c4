"""Trunks: from embedded features to one representation per task.

A new trunk is a file here, and its configuration's name in the union below.
"""

from typing import Annotated, Union

from pydantic import Field

from models.trunks.aitm import AITM, AITMConfig
from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.cross_stitch import CrossStitch, CrossStitchConfig
from models.trunks.embeddings_only import EmbeddingsOnly, EmbeddingsOnlyConfig
from models.trunks.mmoe import MMoE, MMoEConfig
from models.trunks.ple import PLE, PLEConfig
from models.trunks.shared_bottom import SharedBottom, SharedBottomConfig
from models.trunks.sluice import Sluice, SluiceConfig
from models.trunks.soft_sharing import SoftSharing, SoftSharingConfig

AnyTrunk = Annotated[
    Union[
        EmbeddingsOnlyConfig,
        SharedBottomConfig,
        SoftSharingConfig,
        CrossStitchConfig,
        SluiceConfig,
        MMoEConfig,
        PLEConfig,
        AITMConfig,
    ],
    Field(discriminator="name"),
]

__all__ = [
    "AITM",
    "PLE",
    "AITMConfig",
    "AnyTrunk",
    "CrossStitch",
    "CrossStitchConfig",
    "DenseStack",
    "EmbeddingsOnly",
    "EmbeddingsOnlyConfig",
    "MMoE",
    "MMoEConfig",
    "PLEConfig",
    "SharedBottom",
    "SharedBottomConfig",
    "Sluice",
    "SluiceConfig",
    "SoftSharing",
    "SoftSharingConfig",
    "Trunk",
    "TrunkConfig",
]
