"""Configuration of the comparison of serving with training."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from models.section import Section


class SkewConfig(Section):
    """What `seesaw skew` calls a difference between the rows that were served and those that training reads."""

    score: NonNegativeFloat = Field(1e-5, description="Probabilities that differ by no more are the same.")
    number: NonNegativeFloat = Field(
        1e-6, description="Numbers that differ by no more, as a share of the larger one, are the same."
    )
    rows: NonNegativeFloat = Field(
        0.0, lt=1, description="There is skew if a larger share of the rows differs, in a feature or in a score."
    )
    as_served: tuple[str, ...] = Field(
        (),
        description="Features that serving sends otherwise on purpose, such as the position: they are not compared, "
        "and training's rows are scored with what was served.",
    )

    def check(self, features: set[str]) -> None:
        """Refuses features that there are not.

        Raises:
          ValueError: naming the feature.
        """
        for name in self.as_served:
            if name not in features:
                raise ValueError(f"as_served: expected names of features, got '{name}'")
