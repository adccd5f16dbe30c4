"""What past runs made of examples that hold rows of certain users, as ML Metadata knows it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from components.log_example_gen.forgetting import count_rows
from components.log_example_gen.forgotten import Forgotten


@dataclass(frozen=True)
class Holder:
    """An artifact that holds rows of users, or was made from one that does.

    Attributes:
      kind: type of the artifact.
      uri: its folder.
      rows: examples of the users in it; None where it was made from such examples.
    """

    kind: str
    uri: str
    rows: int | None


def holders(root: Path, forgotten: Forgotten) -> list[Holder]:
    """Examples under a root that hold rows of forgotten users, and all artifacts made from them, if still there."""
    database = root / "metadata.sqlite"
    if not database.exists():
        return []
    with metadata.Metadata(metadata.sqlite_metadata_connection_config(str(database))) as handle:
        store = handle.store
        kinds = {kind.id: kind.name for kind in store.get_artifact_types()}
        artifacts = {a.id: a for a in store.get_artifacts() if os.path.exists(a.uri)}
        events = store.get_events_by_artifact_ids(list(artifacts)) if artifacts else []
    found: dict[int, int | None] = {}
    rows_of: dict[tuple[int, int], int] = {}  # artifacts share files
    for number, artifact in artifacts.items():
        if kinds[artifact.type_id] == "Examples":
            rows = 0
            for path in sorted(Path(artifact.uri).glob("Split-*/data_tfrecord-*")):
                stat = path.stat()
                inode = stat.st_dev, stat.st_ino
                if inode not in rows_of:
                    rows_of[inode] = count_rows(str(path), forgotten)
                rows += rows_of[inode]
            if rows:
                found[number] = rows
    for number in _made_from(found, events):
        if number in artifacts:
            found.setdefault(number, None)
    return [Holder(kinds[artifacts[n].type_id], artifacts[n].uri, rows) for n, rows in sorted(found.items())]


def _made_from(sources: Iterable[int], events: Iterable[metadata_store_pb2.Event]) -> list[int]:
    """Artifacts of executions that read one of the sources, directly or not, and what came with the sources."""
    reads: dict[int, set[int]] = {}
    gives: dict[int, set[int]] = {}
    given_by: dict[int, int] = {}
    for event in events:
        if event.type == metadata_store_pb2.Event.INPUT:
            reads.setdefault(event.artifact_id, set()).add(event.execution_id)
        elif event.type == metadata_store_pb2.Event.OUTPUT:
            gives.setdefault(event.execution_id, set()).add(event.artifact_id)
            given_by.setdefault(event.artifact_id, event.execution_id)
    sources = list(sources)
    seen: set[int] = set()
    queue = [given_by[s] for s in sources if s in given_by]  # the report beside the examples, with rejected rows
    while queue:
        execution = queue.pop()
        if execution in seen:
            continue
        seen.add(execution)
        for artifact in gives.get(execution, ()):
            queue += reads.get(artifact, ())
    return sorted(set().union(*(gives.get(execution, set()) for execution in seen)) - set(sources))
