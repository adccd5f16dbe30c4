"""How far the distributions of features are from those of other days, by TensorFlow Data Validation."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components.example_validator.executor import find_anomalies, with_drift

_ANY = 1e-12


def distances(
    then: statistics_pb2.DatasetFeatureStatisticsList,
    now: statistics_pb2.DatasetFeatureStatisticsList,
    schema_text: str,
    features: Collection[str],
) -> dict[str, float]:
    """The distance of each feature between two days.

    The largest difference of a value's share (L-infinity) for texts and ids, Jensen-Shannon divergence for numbers.

    Args:
      then, now: statistics of the examples.
      schema_text: the curated schema.
      features: names; those that the schema lacks are left out.
    """
    schema = text_format.Parse(schema_text, schema_pb2.Schema())
    known = {feature.name for feature in schema.feature}
    limited = with_drift(schema, {name: _ANY for name in features if name in known})
    found = {}
    for info in find_anomalies(now, limited, then).drift_skew_info:
        measured = [m.value for m in info.drift_measurements]
        if measured:
            found[info.path.step[0]] = float(max(measured))
    return found


def read_statistics(path: Path) -> statistics_pb2.DatasetFeatureStatisticsList:
    return statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes())
