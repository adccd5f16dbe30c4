"""A first schema from statistics, for a person to look over."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from models.features import Feature, IdFeature, IdListFeature

KEYS = ("request_id", "item_id", "user_id", "event_time")
MAX_DOMAIN = 30
MIN_DOMAIN_MASS = 0.95


def infer_schema(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    labels: Sequence[str],
    keys: Sequence[str] = KEYS,
    features: Sequence[Feature] = (),
) -> schema_pb2.Schema:
    """Infers the schema of joined examples from the statistics of their training days.

    Labels are 0 or 1. A column must have a value in every row if none is missing in the statistics, else in some
    row; keys and lists in some row. Text gets a domain when it has at most 30 values and is no id, list or number
    written as text, and then 5 % of values outside it are still well. Ids have no domain: their vocabulary is
    learned by the transform.

    Args:
      statistics: of one dataset.
      labels: names of the label columns.
      keys: columns that identify the row.
      features: as configured; those that say how to treat unknown ids expect some, and get no domain.

    Returns:
      The schema, features in the order of their names, without shapes: every column is read as sparse.
    """
    import tensorflow_data_validation as tfdv

    schema = tfdv.infer_schema(statistics, infer_feature_shape=False, max_string_domain_size=MAX_DOMAIN)
    open_ended = {f.name for f in features if isinstance(f, (IdFeature, IdListFeature)) and _expects_unknown(f)}
    (dataset,) = statistics.datasets
    seen = {(s.name or s.path.step[0]): _common(s) for s in dataset.features}
    for feature in schema.feature:
        _set_counts(feature, seen[feature.name])
        if feature.name in labels:
            feature.int_domain.CopyFrom(schema_pb2.IntDomain(min=0, max=1))
        elif feature.name in keys:
            feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_count=1))
        is_id = feature.name in keys or feature.name in open_ended or _id_like(feature.name)
        _set_domain(feature, is_id=is_id)
    used = {feature.domain for feature in schema.feature}
    domains = [domain for domain in schema.string_domain if domain.name in used]
    del schema.string_domain[:]
    schema.string_domain.extend(domains)
    ordered = sorted(schema.feature, key=lambda feature: feature.name)
    del schema.feature[:]
    schema.feature.extend(ordered)
    return schema


def _set_counts(feature: schema_pb2.Feature, seen: statistics_pb2.CommonStatistics) -> None:
    is_list = seen.max_num_values > 1
    # A missing value comes as no column at all in the row, or as a column with no values.
    optional = seen.num_missing > 0 or seen.min_num_values == 0
    feature.ClearField("value_count")
    if not is_list:
        feature.value_count.CopyFrom(schema_pb2.ValueCount(min=0 if optional else 1, max=1))
    min_fraction = None if optional or is_list else 1.0
    feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_count=1, min_fraction=min_fraction))


def _set_domain(feature: schema_pb2.Feature, is_id: bool) -> None:
    if feature.type != schema_pb2.BYTES:
        return
    is_list = not feature.HasField("value_count")
    # Text of digits gets an integer's domain, which says nothing: such text is a code or an id.
    if feature.WhichOneof("domain_info") and (is_id or is_list or not feature.domain):
        feature.ClearField(feature.WhichOneof("domain_info"))
    feature.ClearField("distribution_constraints")
    if feature.domain:
        feature.distribution_constraints.min_domain_mass = MIN_DOMAIN_MASS


def _common(feature: statistics_pb2.FeatureNameStatistics) -> statistics_pb2.CommonStatistics:
    return getattr(feature, feature.WhichOneof("stats")).common_stats


def _expects_unknown(feature: IdFeature | IdListFeature) -> bool:
    return bool(feature.vocabulary or feature.hash_buckets or feature.shares)


def _id_like(name: str) -> bool:
    return name == "id" or name.endswith(("_id", "_ids", "Id", "Ids"))
