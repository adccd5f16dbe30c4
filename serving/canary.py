"""Who gets the candidate: a share of the traffic, by a hash of a key, so that a user always gets the same model."""

from __future__ import annotations

import hashlib
import threading
import time

from serving.model_repository import ModelRepository


def place_of(key: str) -> float:
    """A number in [0, 1) that looks drawn at random and is always the same for a key.

    A key whose place is below the canary's share gets the candidate: who has it at a small share keeps it at a larger.
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


class CanaryShare:
    """The share that the model repository says (`seesaw canary`), read again from time to time.

    Args:
      repository: the model's.
      seconds: how long what was read counts.
    """

    def __init__(self, repository: ModelRepository, seconds: float = 5.0):
        self._repository = repository
        self._seconds = seconds
        self._lock = threading.Lock()
        self._share = 0.0
        self._until = float("-inf")

    def __call__(self) -> float:
        with self._lock:
            if time.monotonic() >= self._until:
                self._share = self._repository.canary()
                self._until = time.monotonic() + self._seconds
            return self._share
