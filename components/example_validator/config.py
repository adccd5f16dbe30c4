"""Configuration of the validation of examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.section import Section


class ValidationConfig(Section):
    """What examples must look like for a run to go on."""

    schema_path: str = Field(
        alias="schema", description="File with the curated schema (a Schema proto as text); relative to this file."
    )
    drift: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default={},
        description="Per feature: how far its distribution may be from that of the window on which the model in "
        "service was trained. Largest difference of a value's share (L-infinity) for ids, Jensen-Shannon divergence "
        "for numbers.",
    )
