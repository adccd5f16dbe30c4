"""What the check of an exported model found, as one JSON document."""

from __future__ import annotations

import os

from tfx.dsl.io import fileio

from models.section import Section

DOCUMENT_FILE = "serving_check.json"
BLESSED, NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"
FILES = "files"
"""Folder of what is to be published with the model, in the places that its files have there."""


class Parity(Section):
    """How far a signature's scores are from those expected.

    Attributes:
      signature: its name.
      of: whose scores they are compared with: 'the trainer', or another signature.
      rows: rows that were compared.
      requests: requests that they came in.
      difference: the largest one, over all outputs.
    """

    signature: str
    of: str
    rows: int
    requests: int
    difference: float


class Latency(Section):
    """How long requests of a size took.

    Attributes:
      signature: what was asked.
      candidates: rows of the request.
      runs: requests that were timed.
      p50_ms, p99_ms: percentiles.
    """

    signature: str
    candidates: int
    runs: int
    p50_ms: float
    p99_ms: float


class ServingVerdict(Section):
    """The verdict.

    Attributes:
      blessed: whether the model may go into service.
      reasons: what was wrong, a line each; empty for a model that is blessed.
      load_seconds: that a fresh process took to load the model, None if it could not.
      parity: by signature.
      latency: by size of the request.
    """

    blessed: bool
    reasons: tuple[str, ...]
    load_seconds: float | None = None
    parity: tuple[Parity, ...] = ()
    latency: tuple[Latency, ...] = ()

    def write(self, folder: str) -> None:
        fileio.makedirs(folder)
        for name, text in (
            (DOCUMENT_FILE, self.model_dump_json(indent=1)),
            (BLESSED if self.blessed else NOT_BLESSED, ""),
        ):
            with fileio.open(os.path.join(folder, name), "w") as file:
                file.write(text)


def read_serving_check(folder: str) -> ServingVerdict:
    """Reads the verdict in the output of ServingCheck."""
    with fileio.open(os.path.join(folder, DOCUMENT_FILE), "r") as file:
        return ServingVerdict.from_json(file.read())
