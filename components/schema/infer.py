"""A first schema from statistics, for a person to look over."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

KEYS = ("request_id", "item_id", "user_id", "event_time")
MAX_DOMAIN = 30
MIN_DOMAIN_MASS = 0.95


def infer_schema(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, labels: Sequence[str], keys: Sequence[str] = KEYS
) -> schema_pb2.Schema:
    """Infers the schema of joined examples from the statistics of their training days.

    Labels are 0 or 1 and always there. Other columns must be there in every row if no value is missing in the
    statistics, else in some row; keys in some row. Text gets a domain when it has at most 30 values and is no id
    or list, and then 5 % of values outside it are still well. Ids have no domain: their vocabulary is learned by
    the transform.

    Args:
      statistics: of one dataset.
      labels: names of the label columns.
      keys: columns that identify the row.

    Returns:
      The schema, features in the order of their names, without shapes: every column is read as sparse.
    """
    import tensorflow_data_validation as tfdv

    schema = tfdv.infer_schema(statistics, infer_feature_shape=False, max_string_domain_size=MAX_DOMAIN)
    for feature in schema.feature:
        if feature.value_count.max != 1:
            feature.value_count.Clear()
            feature.value_count.min = 1
        if feature.name in labels:
            feature.int_domain.CopyFrom(schema_pb2.IntDomain(min=0, max=1))
            feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_fraction=1.0, min_count=1))
            continue
        if feature.name in keys:
            feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_count=1))
        if feature.WhichOneof("domain_info"):
            if feature.name in keys or _id_like(feature.name) or feature.value_count.max != 1:
                feature.ClearField(feature.WhichOneof("domain_info"))
            elif feature.type == schema_pb2.BYTES:
                feature.distribution_constraints.min_domain_mass = MIN_DOMAIN_MASS
    used = {feature.domain for feature in schema.feature}
    domains = [domain for domain in schema.string_domain if domain.name in used]
    del schema.string_domain[:]
    schema.string_domain.extend(domains)
    ordered = sorted(schema.feature, key=lambda feature: feature.name)
    del schema.feature[:]
    schema.feature.extend(ordered)
    return schema


def _id_like(name: str) -> bool:
    return name == "id" or name.endswith(("_id", "_ids", "Id", "Ids"))
