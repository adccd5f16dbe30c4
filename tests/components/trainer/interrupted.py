"""Trains with deterministic ops, which hold for a whole process: without a stop, and interrupted many times.

Usage: python interrupted.py FOLDER. Writes FOLDER/found.json: by case, what differs.
"""

# ruff: noqa: E402  (the process is prepared before TensorFlow is imported)

from __future__ import annotations

import json
import sys
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import tensorflow as tf
import tf_keras as keras

from components.trainer.config import TrainingConfig
from models.balancing import PCGrad, Uncertainty
from models.presets import ModelConfig
from tests.components.trainer.toy_training import Killed, Training, write_rows

STACK = {"units": [6], "dropout": 0.4, "normalization": "batch"}
HEADS = {"name": "plain", "tower": [4], "dropout": 0.2}
MODELS = {
    "mmoe": {"trunk": {"name": "mmoe", "experts": 2, "expert": STACK}, "heads": HEADS},
    # Its stitches have an optimizer of their own.
    "cross_stitch": {"trunk": {"name": "cross_stitch", "bottom": STACK}, "heads": HEADS},
}
CASES = {
    "uncertainty": ("mmoe", Uncertainty(name="uncertainty"), {}),
    "pcgrad in cached rows": ("cross_stitch", PCGrad(name="pcgrad"), {"cache": True}),
}
# 8 steps are an epoch, and there is a checkpoint after 3, 6, 9, 12 and 15. Killed before the first one, right after
# one, at the end of the epoch and within the next.
DEATHS = (2, 3, 8, 11)


def attempt(case: str, root: Path, name: str) -> Training:
    """A new process would have a new folder for the record, and the same one for the checkpoints."""
    model, balancer, settings = CASES[case]
    config = TrainingConfig(batch_size=16, epochs=2, probe_every=4, checkpoint_every=3, **settings)
    keras.utils.set_random_seed(config.seed)
    return Training(
        [str(root / "rows" / "part-*")],
        root / case / name,
        training=config,
        model=ModelConfig.from_json(json.dumps(MODELS[model])),
        balancer=balancer,
        checkpoints=root / case / "checkpoints",
    )


def differences(case: str, root: Path) -> dict:
    straight = attempt(case, root, "straight").run()
    expected = straight.everything()
    straight.checkpoints.delete()
    begun = []
    for death in DEATHS:
        training = attempt(case, root, f"until {death}")
        training.checkpoints.restore()
        begun.append(training.record.steps)
        try:
            training.run(die_after=death)
            raise AssertionError(f"not killed at {death}")
        except Killed:
            pass
    training = attempt(case, root, "to the end")
    assert training.checkpoints.restore()
    begun.append(training.record.steps)
    found = training.run().everything()
    apart = ("seconds", "resumed_at")
    records = [{k: v for k, v in t.record.state().items() if k not in apart} for t in (straight, training)]
    return {
        "begun": begun,
        "resumed_at": training.record.resumed_at,
        "names": sorted(expected),
        "missing": sorted(set(expected) ^ set(found)),
        "different": [n for n in expected if n in found and not identical(expected[n], found[n])],
        "records equal": records[0] == records[1],
        "windows": [w["step"] for w in records[1]["windows"]],
    }


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main(root: Path) -> None:
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    write_rows(root / "rows")
    found = {case: differences(case, root) for case in CASES}
    (root / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
