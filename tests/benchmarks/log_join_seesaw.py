"""The join of log_join.py as `seesaw join` runs it, to tf.Examples or Parquet."""

from __future__ import annotations

from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import yaml
from log_join_common import IDS, NUMBERS, Task, main

from pipeline.config import load
from pipeline.joined_rows import write_joined_rows


def config(task: Task) -> dict:
    def log(name: str, **columns: str) -> dict:
        return {"path": f"{name}/{{date}}/*.{task.form}", "format": task.form, "columns": columns}

    return {
        "name": "log-join",
        "logs": {
            "root": task.logs,
            "exposures": log("exposures"),
            "events": {"click": log("clicks"), "purchase": log("purchases", value="amount")},
        },
        "attribution": {"windows": {"click": "30m", "purchase": "1d"}},
        "window": {"last_day": task.last_day, "train_days": 1, "eval_days": 1},
        "features": [
            {"name": "user_id", "kind": "id", "side": "user"},
            {"name": "item_id", "kind": "id", "side": "item"},
            *({"name": name, "kind": "id", "side": "context"} for name in IDS),
            *({"name": name, "kind": "number", "side": "item"} for name in NUMBERS),
        ],
        "model": {"preset": "esmm"},
        "validation": {"schema": "none"},
        **({"beam": {"options": task.beam}} if task.beam else {}),
    }


def join(task: Task) -> None:
    file = Path(task.out) / "log_join.yaml"
    file.write_text(yaml.safe_dump(config(task)))
    write_joined_rows(load(file), Path(task.out) / "joined", task.output)


if __name__ == "__main__":
    main(join)
