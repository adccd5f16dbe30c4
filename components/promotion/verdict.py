"""What was decided on a candidate, and why."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Literal

from tfx.dsl.io import fileio

VERDICT_FILE = "promotion.json"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a candidate.

    Attributes:
      verdict: 'promote' when it went into service, 'keep' when the model in service stayed.
      version: number that the candidate has in the repository; None without the blessing of ServingCheck.
      stable: version in service after the verdict, None for none.
      baseline: version that it was judged against, None for none.
      evidence: verdict of the comparison; 'promote' is needed, beside the gates.
      reasons: why, a line each.
      path: folder of the candidate's version, if it has one.
    """

    verdict: Literal["promote", "keep"]
    version: int | None
    stable: int | None
    baseline: int | None
    evidence: Literal["promote", "keep", "not_enough_data"]
    reasons: tuple[str, ...]
    path: str | None

    def write(self, uri: str) -> None:
        fileio.makedirs(uri)
        with fileio.open(os.path.join(uri, VERDICT_FILE), "w") as file:
            file.write(json.dumps(asdict(self), indent=1))


def read_verdict(uri: str) -> Verdict:
    """Reads the verdict in the Promotion component's output."""
    with fileio.open(os.path.join(uri, VERDICT_FILE), "r") as file:
        document = json.loads(file.read())
    return Verdict(**{**document, "reasons": tuple(document["reasons"])})
