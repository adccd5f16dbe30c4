"""Trunks: from embedded features to one representation per task.

A new trunk is a file here, and its configuration's name in the union below.
"""

from typing import Annotated, Union

from pydantic import Field

from models.trunks.base import DenseStack, Trunk, TrunkConfig
from models.trunks.embeddings_only import EmbeddingsOnly, EmbeddingsOnlyConfig
from models.trunks.shared_bottom import SharedBottom, SharedBottomConfig

AnyTrunk = Annotated[Union[EmbeddingsOnlyConfig, SharedBottomConfig], Field(discriminator="name")]

__all__ = [
    "AnyTrunk",
    "DenseStack",
    "EmbeddingsOnly",
    "EmbeddingsOnlyConfig",
    "SharedBottom",
    "SharedBottomConfig",
    "Trunk",
    "TrunkConfig",
]
