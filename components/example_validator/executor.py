"""Finds anomalies in the statistics of examples and says them in words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, writer_utils

from components.baseline.layout import statistics_file
from models.section import UserError

_LONGEST = 300
_ANOMALIES_FILE = "SchemaDiff.pb"  # where TFX's tools look for it


class Executor(base_executor.BaseExecutor):
    """Executor of ExampleValidator.

    Input keys: statistics, schema, baseline. Output key: anomalies. Parameters: drift, labels.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the anomalies of every split.

        Raises:
          UserError: when there is any; a line per anomaly.
        """
        drift: dict[str, float] = json.loads(exec_properties["drift"])
        labels: list[str] = json.loads(exec_properties["labels"])
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        limited = with_drift(schema, drift)
        previous = _previous_statistics(artifact_utils.get_single_uri(input_dict["baseline"]), drift)
        anomalies_artifact = artifact_utils.get_single_instance(output_dict["anomalies"])
        splits = artifact_utils.decode_split_names(statistics.split_names)
        anomalies_artifact.split_names = artifact_utils.encode_split_names(splits)

        lines: list[str] = []
        blessed = {}
        for split in splits:
            view = stats_artifact_utils.load_statistics(statistics, split).proto()
            anomalies = find_anomalies(view, limited, previous if split == "train" else None)
            uri = artifact_utils.get_split_uri([anomalies_artifact], split)
            writer_utils.write_anomalies(os.path.join(uri, _ANOMALIES_FILE), anomalies)
            found = [*label_mistakes(view, labels), *explain(anomalies, schema)]
            lines += [f"{split}: {line}" for line in found]
            blessed[split] = int(not found)
        anomalies_artifact.set_json_value_custom_property("blessed", blessed)
        if lines:
            raise UserError(
                f"the examples have {len(lines)} anomal{'y' if len(lines) == 1 else 'ies'}; mend the logs, or the "
                f"schema and the thresholds under 'validation' where these values are right:\n"
                + "\n".join(f"  {line}" for line in lines)
            )


def find_anomalies(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
    previous: statistics_pb2.DatasetFeatureStatisticsList | None,
) -> anomalies_pb2.Anomalies:
    import tensorflow_data_validation as tfdv

    return tfdv.validate_statistics(statistics, schema, previous_statistics=previous)


def with_drift(schema: schema_pb2.Schema, drift: dict[str, float]) -> schema_pb2.Schema:
    """The schema with a limit on drift per feature.

    Raises:
      UserError: for a feature that the schema does not have.
    """
    limited = schema_pb2.Schema()
    limited.CopyFrom(schema)
    by_name = {feature.name: feature for feature in limited.feature}
    for name, threshold in drift.items():
        if name not in by_name:
            raise UserError(f"validation.drift: expected a feature of the schema, got '{name}'")
        comparator = by_name[name].drift_comparator
        if by_name[name].type == schema_pb2.BYTES:
            comparator.infinity_norm.threshold = threshold
        else:
            comparator.jensen_shannon_divergence.threshold = threshold
    return limited


def label_mistakes(statistics: statistics_pb2.DatasetFeatureStatisticsList, labels: Sequence[str]) -> Iterator[str]:
    """A line per label that has one class only, or one line where there are no rows."""
    (dataset,) = statistics.datasets
    if not dataset.num_examples:
        yield "expected examples, found no row"
        return
    by_name = {(feature.name or feature.path.step[0]): feature for feature in dataset.features}
    for label in labels:
        if label not in by_name:
            yield f"label '{label}': expected a column, found none"
            continue
        numbers = by_name[label].num_stats
        if numbers.min == numbers.max:
            yield f"label '{label}': expected both 0 and 1, found only {numbers.min:g} in {dataset.num_examples} rows"


def explain(anomalies: anomalies_pb2.Anomalies, schema: schema_pb2.Schema) -> Iterator[str]:
    """A line per anomaly that is an error: the feature, what is wrong, what was expected and what came."""
    if anomalies.HasField("dataset_anomaly_info"):
        yield from _reasons("dataset", anomalies.dataset_anomaly_info, {})
    by_name = {feature.name: feature for feature in schema.feature}
    for name in sorted(anomalies.anomaly_info):
        expected = _expectations(by_name[name], schema) if name in by_name else {}
        yield from _reasons(f"feature '{name}'", anomalies.anomaly_info[name], expected)


def _reasons(subject: str, info: anomalies_pb2.AnomalyInfo, expected: dict[str, str]) -> Iterator[str]:
    if info.severity == anomalies_pb2.AnomalyInfo.WARNING:
        logging.warning("%s: %s", subject, info.description)
        return
    for reason in info.reason or [info]:
        text = " ".join(reason.description.split()).rstrip(". ")
        title = reason.short_description.rstrip(". ")
        line = f"{subject}: {title}: {text}" if title and title not in text else f"{subject}: {text or title}"
        if title in expected:
            line += f"; expected {expected[title]}"
        yield line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _expectations(feature: schema_pb2.Feature, schema: schema_pb2.Schema) -> dict[str, str]:
    """What the schema expects, by the titles of the anomalies whose description leaves it out."""
    expected = {}
    if feature.HasField("value_count"):
        expected["Superfluous values"] = f"at most {feature.value_count.max}"
        expected["Missing values"] = f"at least {feature.value_count.min}"
    kind = feature.WhichOneof("domain_info")
    if kind in ("int_domain", "float_domain"):
        domain = getattr(feature, kind)
        bounds = {"at least": "min", "at most": "max"}
        expected["Out-of-range values"] = " and ".join(
            f"{words} {getattr(domain, bound):g}" for words, bound in bounds.items() if domain.HasField(bound)
        )
    domains = {domain.name: domain for domain in schema.string_domain}
    domain = feature.string_domain if kind == "string_domain" else domains.get(feature.domain)
    if domain is not None:
        shown = ", ".join(list(domain.value)[:10]) + (", ..." if len(domain.value) > 10 else "")
        share = feature.distribution_constraints.min_domain_mass
        expected["Unexpected string values"] = f"at least {share:.0%} of {shown}"
    return expected


def _previous_statistics(
    baseline_uri: str, drift: dict[str, float]
) -> statistics_pb2.DatasetFeatureStatisticsList | None:
    if not drift:
        return None
    path = statistics_file(baseline_uri)
    if path is None:
        logging.info("Drift is not looked at: no model with statistics is in service.")
        return None
    with fileio.open(path, "rb") as file:
        return statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read())
