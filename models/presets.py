"""The model section: a trunk and heads, or the published model that names a pair of them."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, model_validator

from models.heads import AnyHeads, EntireSpaceConfig, JointConfig, PlainConfig
from models.interactions import AnyInteraction
from models.section import Section
from models.trunks import (
    AITMConfig,
    AnyTrunk,
    CrossStitchConfig,
    EmbeddingsOnlyConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    SluiceConfig,
    SoftSharingConfig,
)


class Preset(NamedTuple):
    """A published model as a point of the grid."""

    trunk: AnyTrunk
    heads: AnyHeads
    interaction: AnyInteraction | None = None


PRESETS: dict[str, Preset] = {
    "esmm": Preset(
        EmbeddingsOnlyConfig(name="embeddings_only"), EntireSpaceConfig(name="entire_space", tower=(128, 64))
    ),
    "shared_bottom": Preset(SharedBottomConfig(name="shared_bottom"), PlainConfig(name="plain")),
    "soft_sharing": Preset(SoftSharingConfig(name="soft_sharing"), PlainConfig(name="plain")),
    "cross_stitch": Preset(CrossStitchConfig(name="cross_stitch"), PlainConfig(name="plain")),
    "sluice": Preset(SluiceConfig(name="sluice"), PlainConfig(name="plain")),
    "mmoe": Preset(MMoEConfig(name="mmoe"), PlainConfig(name="plain")),
    "cgc": Preset(PLEConfig(name="ple", levels=1), PlainConfig(name="plain")),
    "ple": Preset(PLEConfig(name="ple"), PlainConfig(name="plain")),
    "aitm": Preset(AITMConfig(name="aitm"), JointConfig(name="joint", tower=(), calibrator=0.6)),
}


class ModelConfig(Section):
    """Trunk and heads. `preset` fills in the one that is not given."""

    preset: str | None = Field(None, description=f"A published model: {', '.join(PRESETS)}.")
    trunk: AnyTrunk = Field(None, description="What the tasks share; the preset's by default.")  # type: ignore[assignment]
    heads: AnyHeads = Field(None, description="Towers and losses; the preset's by default.")  # type: ignore[assignment]
    interaction: AnyInteraction | None = Field(
        None, description="Products of features before the trunk; the preset's by default, and mostly none."
    )

    @model_validator(mode="after")
    def _fill_in(self) -> ModelConfig:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got '{self.preset}'")
        for part in ("trunk", "heads"):
            if getattr(self, part) is None:
                if self.preset is None:
                    raise ValueError(f"{part}: required where no preset is given")
                object.__setattr__(self, part, getattr(PRESETS[self.preset], part))
        if self.interaction is None and self.preset is not None:
            object.__setattr__(self, "interaction", PRESETS[self.preset].interaction)
        return self
