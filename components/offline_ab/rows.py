"""Rows that both sides scored, as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from components.offline_ab.document import Side
from models.tasks import Output

_LABEL, _SCORE, _SLICE = "label ", "score ", "slice "
USER, REQUEST, WEIGHT, PRICE, VALUE, TIME = "user", "request", "weight", "price", "value", "time_ms"
ARM, PROPENSITY, CHOSEN = "arm", "propensity", "chosen"


@dataclass(frozen=True)
class ScoredRows:
    """What a comparison needs of every row, [rows] each.

    Attributes:
      users, requests: uint64 hashes of the ids.
      labels: by label, 0, 1 or NaN where missing.
      scores: by side and output, probabilities; without 'baseline' where there is none.
      weights: example weights, or None for 1.
      slices: by column, text; None where missing (a pyarrow dictionary array).
      others: numbers by what they are: price, value, propensity, chosen, time_ms.
      arms: name of the arm of each row (a pyarrow dictionary array), or None.
    """

    users: np.ndarray
    requests: np.ndarray
    labels: dict[str, np.ndarray]
    scores: dict[Side, dict[str, np.ndarray]]
    weights: np.ndarray | None = None
    slices: dict[str, pa.DictionaryArray] = field(default_factory=dict)
    others: dict[str, np.ndarray] = field(default_factory=dict)
    arms: pa.DictionaryArray | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(s for s in ("baseline", "candidate") if s in self.scores)

    def counted(self, output: Output) -> np.ndarray:
        """Mask of the rows on which an output is judged: label there, weight not 0, and the step before reached."""
        mask = ~np.isnan(self.labels[output.label])
        if output.given is not None:
            mask &= self.labels[output.given] == 1
        if self.weights is not None:
            mask &= self.weights != 0
        return mask

    def of_slice(
        self, columns: Sequence[str], rows: np.ndarray, most: int
    ) -> tuple[list[tuple[dict[str, str], np.ndarray]], int]:
        """Cuts rows by the values of some columns, the largest slices first.

        Args:
          columns: names of slicing columns.
          rows: indices of the rows to cut; those without one of the values are in no slice.
          most: number of slices to give.

        Returns:
          Values and rows of each slice, and the number of slices left out.
        """
        code = np.zeros(len(rows), np.int64)
        present = np.ones(len(rows), bool)
        words: list[list[str]] = []
        for name in columns:
            column = self.slices[name]
            indices = column.indices.to_numpy(zero_copy_only=False)[rows]
            missing = np.isnan(indices) if indices.dtype.kind == "f" else np.zeros(len(rows), bool)
            words.append(column.dictionary.to_pylist())
            code = code * max(1, len(words[-1])) + np.where(missing, 0, indices).astype(np.int64)
            present &= ~missing
        rows, code = rows[present], code[present]
        order = np.argsort(code, kind="stable")
        found, starts, counts = np.unique(code[order], return_index=True, return_counts=True)
        largest = np.argsort(-counts, kind="stable")
        cut = []
        for i in largest[:most]:
            values: list[str] = []
            rest = int(found[i])
            for known in reversed(words):
                rest, index = divmod(rest, max(1, len(known)))
                values.insert(0, known[index])
            cut.append((dict(zip(columns, values)), np.sort(rows[order[starts[i] : starts[i] + counts[i]]])))
        return cut, max(0, len(found) - most)

    def to_table(self) -> pa.Table:
        """As Arrow columns, for a file; `from_tables` reads them back."""
        columns: dict[str, pa.Array] = {USER: pa.array(self.users), REQUEST: pa.array(self.requests)}
        columns |= {_LABEL + name: pa.array(values.astype(np.float32)) for name, values in self.labels.items()}
        for side, by_output in self.scores.items():
            columns |= {f"{_SCORE}{side} {name}": pa.array(values) for name, values in by_output.items()}
        if self.weights is not None:
            columns[WEIGHT] = pa.array(self.weights)
        columns |= {_SLICE + name: values for name, values in self.slices.items()}
        columns |= {name: pa.array(values) for name, values in self.others.items()}
        if self.arms is not None:
            columns[ARM] = self.arms
        return pa.table(columns)

    @classmethod
    def from_tables(cls, tables: Sequence[pa.Table]) -> ScoredRows:
        """Puts the rows of several files together."""
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        return cls(
            users=_numbers(table, USER),
            requests=_numbers(table, REQUEST),
            labels={name.removeprefix(_LABEL): _numbers(table, name) for name in _with(table, _LABEL)},
            scores=_by_side({name.removeprefix(_SCORE): _numbers(table, name) for name in _with(table, _SCORE)}),
            weights=_numbers(table, WEIGHT) if WEIGHT in table.column_names else None,
            slices={name.removeprefix(_SLICE): _words(table, name) for name in _with(table, _SLICE)},
            others={n: _numbers(table, n) for n in (PRICE, VALUE, TIME, PROPENSITY, CHOSEN) if n in table.column_names},
            arms=_words(table, ARM) if ARM in table.column_names else None,
        )


def _with(table: pa.Table, prefix: str) -> Iterator[str]:
    return (name for name in table.column_names if name.startswith(prefix))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy()


def _words(table: pa.Table, name: str) -> pa.DictionaryArray:
    column = table.column(name)
    if column.num_chunks == 1:
        chunk = column.chunk(0)
    else:
        chunk = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    return chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()


def _by_side(columns: Mapping[str, np.ndarray]) -> dict[Side, dict[str, np.ndarray]]:
    scores: dict[Side, dict[str, np.ndarray]] = {}
    for name, values in columns.items():
        side, output = name.split(" ", 1)
        scores.setdefault("baseline" if side == "baseline" else "candidate", {})[output] = values
    return scores
