"""The examples that statistics_and_transform.py measures on: 22 columns as a joined shop's log has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.log_example_gen.encoding import write_examples

VOCABULARIES = {"user_id": 200_000, "item_id": 50_000, "seller": 5_000, "brand": 2_000, "category": 300} | {
    name: size for name, size in zip(("city", "country", "device", "page", "position"), (1_000, 60, 4, 40, 20))
}
NUMBERS = ("price", "discount", "rating", "age_days")
BANDS = ("price", "rating", "age_days")
FEATURES = [
    *({"name": name, "kind": "id", "side": "item"} for name in VOCABULARIES),
    {"name": "history", "kind": "id_list", "side": "user", "max_length": 20, "shares": "item_id"},
    *({"name": name, "kind": "number", "side": "item"} for name in NUMBERS),
    *({"name": f"{name}_band", "kind": "bucketed", "side": "item", "quantiles": 10} for name in BANDS),
]
LABELS = ("click", "purchase")


def make_examples(folder: Path, rows: int, files: int) -> None:
    """Writes the splits 'train' (nine rows in ten) and 'eval'; ids are drawn with p(id) ~ 1 / id."""
    rng = np.random.default_rng(1)

    def ids(size: int, n: int) -> pa.Array:
        return pa.array(np.floor(np.exp(rng.random(n) * np.log(size))).astype(np.int64)).cast(pa.string())

    for split, of_split in (("train", rows * 9 // 10), ("eval", rows - rows * 9 // 10)):
        (folder / f"Split-{split}").mkdir(parents=True)
        for file in range(files):
            n = of_split // files
            lengths = rng.integers(0, 12, n)
            numbers = {name: np.round(rng.lognormal(2, 1, n), 2) for name in NUMBERS}
            columns = {
                "request_id": pc.binary_join_element_wise("r", pa.array(np.arange(n) // 10).cast(pa.string()), ""),
                "event_time": pa.array(1_767_225_600_000 + np.arange(n)),
                **{name: ids(size, n) for name, size in VOCABULARIES.items()},
                "history": pa.ListArray.from_arrays(
                    pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), ids(50_000, int(lengths.sum()))
                ),
                **{name: pa.array(values, mask=rng.random(n) < 0.02) for name, values in numbers.items()},
                **{f"{name}_band": pa.array(numbers[name]) for name in BANDS},
                **{label: pa.array((rng.random(n) < 0.1).astype(np.int64)) for label in LABELS},
            }
            name = f"data_tfrecord-{file:05d}-of-{files:05d}"
            write_examples(pa.table(columns), str(folder / f"Split-{split}" / name), str(folder))
    (folder / "features.json").write_text(json.dumps(FEATURES))
