"""Writes joined rows as Parquet files, for analysts: the columns of the examples with their types and names."""

from __future__ import annotations

import os
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.io import fileio

from components.log_example_gen.buckets import create

_GROUP_ROWS = 1 << 20


def write_parquet(table: pa.Table, path: str, partial: str) -> None:
    """Writes a file of rows, whole or not at all: a worker that is tried again leaves the same file.

    Args:
      table: columns of the examples; a null is a null.
      path: where the file appears.
      partial: folder on the same file system for files that are not whole.
    """
    part = os.path.join(partial, uuid.uuid4().hex)
    with create(part) as sink:
        pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd", compression_level=1)
    fileio.rename(part, path, overwrite=True)
