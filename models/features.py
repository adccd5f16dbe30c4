"""Features of an exposure: what the configuration may say of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, Union

from pydantic import Field, PositiveInt, model_validator

from models.section import Section

Side = Literal["user", "item", "context"]

PADDING_ID = 0
"""Row 0 of every embedding table stands for a missing value or padding; known ids start at 1."""


class Vocabulary(Section):
    """Tokens seen in the training days get a row each, the others share `oov_buckets` rows."""

    max_size: PositiveInt | None = Field(None, description="Keep this many of the most frequent tokens.")
    min_count: PositiveInt = Field(1, description="Leave out tokens seen fewer times than this.")
    oov_buckets: PositiveInt = Field(1, description="Rows shared, by hash, by the tokens left out.")


class _Feature(Section):
    name: str = Field(min_length=1, description="Name of the feature in the model and its signatures.")
    column: str | None = Field(None, description="Column of the exposure log; the feature's name by default.")
    side: Side = Field(description="Who the feature describes: the user, the item, or the context of the request.")

    @property
    def source(self) -> str:
        return self.column or self.name


class _Embedded(_Feature):
    dimension: PositiveInt = Field(16, description="Width of the embedding.")


class _Identified(_Embedded):
    vocabulary: Vocabulary | None = Field(None, description="Tokens learned from the training days (the default).")
    hash_buckets: PositiveInt | None = Field(None, description="Hash tokens into this many rows instead.")
    shares: str | None = Field(None, description="Use the vocabulary and embedding table of this feature.")

    @model_validator(mode="after")
    def _one_way_to_rows(self) -> _Identified:
        given = [k for k in ("vocabulary", "hash_buckets", "shares") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"expected at most one of vocabulary, hash_buckets and shares, got {', '.join(given)}")
        return self

    @property
    def table(self) -> str:
        """Name of the embedding table: the feature's own, or that of the feature it shares."""
        return self.shares or self.name


class IdFeature(_Identified):
    """One categorical value: an id, a code, a name. Integers and strings are both read as text."""

    kind: Literal["id"]


class IdListFeature(_Identified):
    """Several categorical values, such as the items that a user clicked before, oldest first."""

    kind: Literal["id_list"]
    max_length: PositiveInt = Field(description="Values kept; longer lists lose their oldest (first) values.")
    separator: str | None = Field(None, description="Splits text such as '3|17|4'; lists need none.")
    pooling: Literal["mean", "sum", "attention", "lstm_attention"] = Field(
        "mean",
        description="How the values' embeddings become one; attention (DIN) and lstm_attention (DUPN) weigh them by "
        "the candidate.",
    )
    query: str | None = Field(
        None, description="For the attentions: the id feature of the item or context that is the candidate."
    )
    attention_units: tuple[PositiveInt, ...] = Field(
        (32,), min_length=1, description="For the attentions: hidden widths of the network that scores a value."
    )

    @model_validator(mode="after")
    def _query_where_needed(self) -> IdListFeature:
        if self.attends and self.query is None:
            raise ValueError(f"query: required with pooling {self.pooling}, expected the name of an id feature")
        if not self.attends and self.query is not None:
            raise ValueError(
                f"query: expected only with pooling attention or lstm_attention, got '{self.query}' with pooling "
                f"{self.pooling}"
            )
        return self

    @property
    def attends(self) -> bool:
        """Whether the values are weighed by the candidate."""
        return self.pooling in ("attention", "lstm_attention")


class NumberFeature(_Feature):
    """A number fed to the model as it is, after an optional log1p and scaling."""

    kind: Literal["number"]
    log: bool = Field(False, description="Take log(1 + max(x, 0)) first.")
    scaling: Literal["z_score", "min_max", "none"] = Field(
        "z_score", description="By mean and deviation, or to [0, 1] by the extremes, of the training days."
    )


class BucketedFeature(_Embedded):
    """A number cut into buckets, each with an embedding."""

    kind: Literal["bucketed"]
    boundaries: tuple[float, ...] | None = Field(None, description="Upper edges of the buckets, increasing.")
    quantiles: int | None = Field(None, ge=2, description="Cut into this many buckets of equal size instead.")

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> BucketedFeature:
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("expected exactly one of boundaries and quantiles")
        if self.boundaries is not None and list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"expected increasing boundaries, got {list(self.boundaries)}")
        return self

    @property
    def table(self) -> str:
        return self.name

    @property
    def buckets(self) -> int:
        """Number of buckets: one more than there are boundaries."""
        return len(self.boundaries) + 1 if self.boundaries is not None else int(self.quantiles or 0)


Feature = Annotated[Union[IdFeature, IdListFeature, NumberFeature, BucketedFeature], Field(discriminator="kind")]

EmbeddedFeature: TypeAlias = Union[IdFeature, IdListFeature, BucketedFeature]


def check_features(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """Refuses repeated names, and shares and queries that lead nowhere.

    Raises:
      ValueError: naming the feature.
    """
    by_name: dict[str, Feature] = {}
    for feature in features:
        if feature.name in by_name:
            raise ValueError(f"feature '{feature.name}' is listed twice")
        by_name[feature.name] = feature
    for feature in features:
        if isinstance(feature, IdListFeature) and feature.query is not None:
            _check_query(feature, by_name.get(feature.query))
        if not isinstance(feature, (IdFeature, IdListFeature)) or feature.shares is None:
            continue
        shares = feature.shares
        other = by_name.get(shares)
        if not isinstance(other, (IdFeature, IdListFeature)) or other.shares is not None:
            raise ValueError(
                f"feature '{feature.name}' shares '{shares}', expected the name of an id or id_list feature "
                f"with a vocabulary or hash_buckets of its own"
            )
        if other.dimension != feature.dimension:
            raise ValueError(
                f"feature '{feature.name}' shares '{shares}', expected its dimension {other.dimension}, "
                f"got {feature.dimension}"
            )
    return features


def _check_query(feature: IdListFeature, candidate: Feature | None) -> None:
    if not isinstance(candidate, IdFeature) or candidate.side == "user":
        found = "no feature" if candidate is None else f"kind {candidate.kind} of side {candidate.side}"
        raise ValueError(
            f"feature '{feature.name}' has query '{feature.query}', expected the name of an id feature of side item "
            f"or context, got {found}"
        )
    if candidate.dimension != feature.dimension:
        raise ValueError(
            f"feature '{feature.name}' has query '{feature.query}', expected its dimension {candidate.dimension}, "
            f"got {feature.dimension}"
        )
