"""A sweep of seconds: rows that are made here, a configuration with two small features, and a process to kill.

Usage: python toy_sweep.py FOLDER    carries out the sweep of a folder that `write_toy` made
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import yaml

SMALL = {"trunk": {"name": "shared_bottom", "bottom": {"units": [8]}}, "heads": {"name": "plain", "tower": [4]}}
CONFIG = {
    "name": "toy",
    "logs": {
        "exposures": {"path": "e/{date}"},
        "events": {"click": {"path": "c/{date}"}, "purchase": {"path": "p/{date}"}},
    },
    "attribution": {"windows": {"click": "30m", "purchase": "1d"}},
    "window": {"train_days": 3},
    "features": [
        {"name": "user", "kind": "id", "side": "user", "dimension": 4},
        {"name": "number", "kind": "number", "side": "item"},
    ],
    "model": {"preset": "shared_bottom"},
    "training": {"batch_size": 64},
    "validation": {"schema": "schema.pbtxt"},
    "sweep": {
        "models": {
            "small": SMALL,
            # Products of pairs of embeddings, where there is one: its trainings fail.
            "impossible": {"preset": "shared_bottom", "interaction": {"name": "dot"}},
        },
        "balancers": {"static": {"name": "static"}, "pcgrad": {"name": "pcgrad"}},
        "single_task": SMALL,
        "tuning": {"trials": 2},
        "seeds": 1,
        "replicates": 50,
    },
}  # fmt: skip
USERS = 40


def toy_columns(rows: int, first_day: int, days: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    user, number = rng.integers(0, USERS, rows), rng.normal(0, 1, rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-number - 0.05 * (user - USERS / 2)))
    purchase = click & (rng.random(rows) < 1 / (1 + np.exp(-number)))
    return {
        "user": (user + 1).astype(np.int32),
        "number": number.astype(np.float32),
        "click": click.astype(np.int8),
        "purchase": purchase.astype(np.int8),
        "@user": user.astype(np.int32),
        "@day": (first_day + np.sort(rng.integers(0, days, rows))).astype(np.int32),
    }


def write_toy(folder: Path) -> Path:
    """Writes rows and configuration as a sweep finds them; the file of the configuration."""
    columns = {"train": toy_columns(1200, 20454, 3, 0), "eval": toy_columns(500, 20457, 1, 1)}
    for split, found in columns.items():
        (folder / "rows" / split).mkdir(parents=True)
        for i, values in enumerate(found.values()):
            np.save(folder / "rows" / split / f"{i}.npy", values)
    about = {"fingerprint": "toy", "columns": list(columns["train"]), "tables": {"user": USERS + 2}}
    (folder / "rows" / "about.json").write_text(json.dumps(about))
    (folder / "toy.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False, default_flow_style=None))
    return folder / "toy.yaml"


def run(folder: Path, workers: int = 1, tell=lambda progress: None):
    from pipeline.config import load
    from pipeline.sweep.run import carry_out

    return carry_out(load(folder / "toy.yaml"), folder / "rows", folder, workers=workers, tell=tell)


if __name__ == "__main__":
    from models.runtime import prepare_process

    prepare_process()
    run(Path(sys.argv[1]))
