"""Joins the rows of a bucket to examples: all rows of a key lie in one bucket, so buckets are independent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.log_example_gen.attribution import Attribution, Rows, Rules, Verdict, attribute
from components.log_example_gen.parsing import EVENT_TIME, HASH, ITEM_ID, REQUEST_ID, VALUE, LogSpec, value_name
from components.log_example_gen.window import EXPOSURES

SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Joined:
    """Examples of a bucket, in the order of the hash of their key, and the outcomes of its rows.

    Attributes:
      examples: per split, one column per feature, key, label and value.
      outcomes: per log and outcome and reason, the number of rows.
    """

    examples: dict[str, pa.Table]
    outcomes: dict[str, dict[str, dict[str, int]]]


def join(tables: Mapping[str, pa.Table], specs: Mapping[str, LogSpec], rules: Rules) -> Joined:
    """Deduplicates, attributes and labels the rows of all logs that share a bucket.

    Args:
      tables: per log, rows of its schema, in any order.
      specs: the logs: the exposures first, then the events in the order of the funnel.
      rules: the window and the attribution.
    """
    events = [log for log in specs if log != EXPOSURES]
    rows, result = attribute_rows(tables, specs, rules)

    outcomes = {EXPOSURES: count_verdicts(result.exposures, None)}
    for event, verdicts, cause in zip(events, result.events, ["exposure", *events]):
        outcomes[event] = count_verdicts(verdicts, cause)

    exposures = tables[EXPOSURES]
    joined = np.flatnonzero(result.exposures == Verdict.JOINED)
    # Two keys of one hash are told apart by the ids, whatever bucket and file they came from.
    order = exposures.select([HASH, REQUEST_ID, ITEM_ID]).take(pa.array(joined))
    joined = joined[np.asarray(pc.sort_indices(order, [(name, "ascending") for name in order.column_names]))]
    examples = exposures.take(pa.array(joined)).drop([HASH])
    for event, event_rows, exposure_of in zip(events, rows[1:], result.exposure_of):
        belongs = np.flatnonzero(exposure_of >= 0)
        counts = np.bincount(exposure_of[belongs], minlength=len(exposures))[joined]
        examples = examples.append_column(event, pa.array((counts > 0).astype(np.int64)))
        if specs[event].has_value:
            # Floats add up to the same sum only in the same order.
            belongs = belongs[np.lexsort((event_rows.time[belongs], event_rows.key[belongs]))]
            values = _numpy(tables[event].column(VALUE).fill_null(0.0))[belongs]
            sums = np.bincount(exposure_of[belongs], weights=values, minlength=len(exposures))[joined]
            examples = examples.append_column(value_name(event), pa.array(sums, pa.float64()))
    of_eval = _numpy(examples.column(EVENT_TIME)) >= rules.first_eval
    return Joined(
        examples={split: examples.filter(pa.array(of_eval == (split == "eval"))) for split in SPLITS},
        outcomes=outcomes,
    )


def attribute_rows(
    tables: Mapping[str, pa.Table], specs: Mapping[str, LogSpec], rules: Rules
) -> tuple[list[Rows], Attribution]:
    """Finds the equal keys of the rows of all logs, and attributes them."""
    keys = _key_codes([tables[log] for log in specs])
    rows = [
        Rows(key, _numpy(tables[log].column(EVENT_TIME)), _ranks(tables[log], key)) for log, key in zip(specs, keys)
    ]
    return rows, attribute(rows[0], rows[1:], rules)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def _key_codes(tables: Sequence[pa.Table]) -> list[np.ndarray]:
    """Per table, int64 codes of (request_id, item_id), equal across the tables for equal pairs."""
    codes = []
    for name in (REQUEST_ID, ITEM_ID):
        chunks = [chunk for table in tables for chunk in table.column(name).chunks]
        ids = pa.concat_arrays([*chunks, pa.array([], pa.string())])
        codes.append(np.asarray(ids.dictionary_encode().indices).astype(np.int64))
    request, item = codes
    pairs, _ = pd.factorize(request * (item.max(initial=0) + 1) + item)
    return np.split(pairs.astype(np.int64), np.cumsum([len(table) for table in tables])[:-1])


def _ranks(table: pa.Table, key: np.ndarray) -> np.ndarray:
    """An order, by content, of the rows that share a key and a time; 0 for all others."""
    ranks = np.zeros(len(table), np.int64)
    time = _numpy(table.column(EVENT_TIME))
    order = np.lexsort((time, key))
    same = (key[order][1:] == key[order][:-1]) & (time[order][1:] == time[order][:-1])
    shared = np.zeros(len(table), bool)
    shared[1:] |= same
    shared[:-1] |= same
    tied = order[shared]
    if len(tied):
        content = [repr(list(row.values())) for row in table.take(pa.array(tied)).to_pylist()]
        ranks[tied] = np.argsort(np.argsort(content, kind="stable"), kind="stable")
    return ranks


def count_verdicts(verdicts: np.ndarray, cause: str | None) -> dict[str, dict[str, int]]:
    """Rows per outcome and reason; `cause` as in `Verdict.outcome`."""
    counts: dict[str, dict[str, int]] = {}
    for verdict, count in sorted(Counter(verdicts.tolist()).items()):
        outcome, reason = Verdict(verdict).outcome(cause)
        counts.setdefault(outcome, {})[reason] = count
    return counts
