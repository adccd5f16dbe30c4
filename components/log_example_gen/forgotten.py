"""Users whose rows were deleted on request, as salted hashes: later joins leave their rows out."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from tfx.dsl.io import fileio

from components.log_example_gen.parsing import HASH, USER_ID
from components.log_example_gen.window import EXPOSURES

LIST_FILE = "forgotten.json"


@dataclass(frozen=True)
class Forgotten:
    """The users of a list.

    Attributes:
      salt: makes the hashes of two lists differ.
      users: SHA-256 of salt and user id, each.
    """

    salt: str = ""
    users: frozenset[str] = frozenset()

    @classmethod
    def read(cls, uri: str) -> Forgotten:
        """The list of a folder of joined days; nobody where there is none."""
        path = os.path.join(uri, LIST_FILE)
        if not fileio.exists(path):
            return cls()
        with fileio.open(path) as file:
            content = json.loads(file.read())
        return cls(content["salt"], frozenset(content["users"]))

    def write(self, uri: str) -> None:
        """Puts the list in its place at once."""
        path = os.path.join(uri, LIST_FILE)
        part = f"{path}.{secrets.token_hex(8)}"
        with fileio.open(part, "w") as file:
            file.write(json.dumps({"salt": self.salt, "users": sorted(self.users)}))
        fileio.rename(part, path, overwrite=True)

    def with_users(self, users: Iterable[str]) -> Forgotten:
        """The list with these users, by their ids, as well."""
        salted = Forgotten(self.salt or secrets.token_hex(16), self.users)
        return Forgotten(salted.salt, salted.users | {salted._hash(user) for user in users})

    @property
    def digest(self) -> str:
        """Changes with the users; '' for nobody."""
        return hashlib.sha256("\n".join(sorted(self.users)).encode()).hexdigest() if self.users else ""

    def mask(self, users: pa.ChunkedArray) -> np.ndarray:
        """Which values of a column of user ids are on the list."""
        if not self.users:
            return np.zeros(len(users), bool)
        encoded = pa.concat_arrays([*users.chunks, pa.array([], pa.string())]).dictionary_encode()
        known = np.array([u is not None and self._hash(u) in self.users for u in encoded.dictionary.to_pylist()], bool)
        codes = np.asarray(encoded.indices.fill_null(0)).astype(np.int64)
        return known[codes] & np.asarray(encoded.is_valid()) if len(known) else np.zeros(len(users), bool)

    def split(self, tables: dict[str, pa.Table]) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
        """Cuts the rows of a bucket into those that stay, and those of users of the list with all events of their keys.

        Args:
          tables: per log, rows of its schema; the logs share the keys' buckets.
        """
        if not self.users:
            return tables, {}
        hashes, theirs = tables[EXPOSURES].column(HASH).to_numpy(), self.mask(tables[EXPOSURES].column(USER_ID))
        # Events of a key that another user was shown as well may be the other one's.
        keys = np.setdiff1d(hashes[theirs], hashes[~theirs])
        stay, gone = {}, {}
        for log, rows in tables.items():
            theirs = np.isin(rows.column(HASH).to_numpy(), keys)
            if USER_ID in rows.column_names:
                theirs = self.mask(rows.column(USER_ID))
            stay[log], gone[log] = rows.filter(pa.array(~theirs)), rows.filter(pa.array(theirs))
        return stay, gone

    def _hash(self, user: str) -> str:
        return hashlib.sha256(f"{self.salt}\0{user}".encode()).hexdigest()


NOBODY = Forgotten()
