"""Rows of the same key as equal integers, and an order among rows that differ in their content only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def key_codes(tables: Sequence[tuple[pa.Table, str]], ids: tuple[str, str]) -> list[np.ndarray]:
    """Per table, int64 codes from 0 that are equal for equal pairs of ids, across the tables.

    Args:
      tables: each with the name of its column with the hash of the pair.
      ids: names of the two columns of ids.
    """
    hashes = np.concatenate([table.column(name).to_numpy() for table, name in tables])
    codes, distinct = pd.factorize(hashes)
    codes = codes.astype(np.int64)
    first = np.zeros(len(distinct), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    repeats = np.flatnonzero(first[codes] != np.arange(len(codes)))
    columns = [pa.chunked_array([c for table, _ in tables for c in table.column(n).chunks], pa.string()) for n in ids]
    differ = np.zeros(len(repeats), bool)
    for column in columns:
        here, there = column.take(pa.array(repeats)), column.take(pa.array(first[codes[repeats]]))
        differ |= ~np.asarray(pc.equal(here, there)).astype(bool)
    if differ.any():
        # Two keys of one hash: the ids tell the rows of such hashes apart.
        mixed = np.flatnonzero(np.isin(codes, codes[repeats[differ]]))
        pairs = pd.MultiIndex.from_arrays([column.take(pa.array(mixed)).to_numpy() for column in columns])
        codes[mixed] = len(distinct) + pd.factorize(pairs)[0]
    return np.split(codes, np.cumsum([len(table) for table, _ in tables])[:-1])


def order_of_equals(table: pa.Table, columns: Sequence[str], key: np.ndarray, time: np.ndarray) -> np.ndarray:
    """An order, by the values of columns, of the rows that share a key and a time; 0 for all others.

    Rows are compared column by column: numbers by size, text and the elements of lists by their code
    points, and what is missing comes last.

    Args:
      table: the rows.
      columns: which columns to compare.
      key: int64 [n] from 0.
      time: int64 [n].
    """
    ranks = np.zeros(len(table), np.int64)
    if not columns or not len(key):
        return ranks
    several = np.flatnonzero(np.bincount(key)[key] > 1)
    order = several[np.lexsort((time[several], key[several]))]
    same = (key[order][1:] == key[order][:-1]) & (time[order][1:] == time[order][:-1])
    shared = np.zeros(len(order), bool)
    shared[1:] |= same
    shared[:-1] |= same
    tied = order[shared]
    if len(tied):
        content = table.select(columns).take(pa.array(tied))
        compared = pa.table([_sortable(column) for column in content.columns], content.column_names)
        by_content = pc.sort_indices(compared, sort_keys=[(name, "ascending") for name in columns])
        ranks[tied[np.asarray(by_content)]] = np.arange(len(tied))
    return ranks


def contradict(table: pa.Table, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mask of the pairs of rows that have different values in any column; a missing value differs from none.

    Args:
      table: the rows.
      some, others: int64 [n], positions of the rows of each pair.
    """
    found = np.zeros(len(some), bool)
    for column in table.columns if len(some) else []:
        left, right = (_sortable(column.take(pa.array(rows))) for rows in (some, others))
        found |= ~np.asarray(pc.fill_null(pc.equal(left, right), True)).astype(bool)
    return found


def _sortable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of text as text of the same order: a separator below all that may stand in an element."""
    if not pa.types.is_list(column.type):
        return column
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    elements = pc.replace_substring(lists.flatten(), "\0", "\0\2")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    # The separator stands after each element, so that an empty list and one of an empty text differ.
    ended = pc.binary_join_element_wise(elements, pa.scalar("\0\1"), pa.scalar(""))
    text = pc.binary_join(pa.ListArray.from_arrays(offsets, ended), "")
    return pa.chunked_array([pc.if_else(lists.is_valid(), text, pa.scalar(None, pa.string()))])
