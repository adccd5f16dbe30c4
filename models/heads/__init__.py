"""Heads: from one representation per task to the funnel's probabilities and losses.

New heads are a file here, and their configuration's name in the union below.
"""

from typing import Annotated, Union

from pydantic import Field

from models.heads.base import Heads, HeadsConfig
from models.heads.entire_space import EntireSpace, EntireSpaceConfig
from models.heads.joint import Joint, JointConfig
from models.heads.plain import Plain, PlainConfig

AnyHeads = Annotated[Union[EntireSpaceConfig, PlainConfig, JointConfig], Field(discriminator="name")]

__all__ = [
    "AnyHeads",
    "EntireSpace",
    "EntireSpaceConfig",
    "Heads",
    "HeadsConfig",
    "Joint",
    "JointConfig",
    "Plain",
    "PlainConfig",
]
