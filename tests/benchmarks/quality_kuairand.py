"""Which ranker is best on real impressions, and by how much?

On the KuaiRand slice, with the days and features of pipeline/configs/kuairand.yaml. Three questions:
1. Does its ranker beat a logistic regression? The reference is a one-hot regression per label on the same features and
   rows; its strength of regularisation is chosen on the last training day.
2. Which preset, and which balancer? Every preset with tuned static weights and with PCGrad; esmm, mmoe and ple with
   every balancer of the mission; single-task models beside them. All have layers of the same sizes (`GRID`), and the
   optimizer and epochs of the configuration; the balancers have their defaults.
3. How were the static weights tuned? The weight of the second task is the best of `TRIALS` by the mean of both AUCs on
   the last training day, after training on the days before it with one seed: per preset, that many trainings are the
   budget.

Every ranker is trained with each seed and scores the evaluation days once. click is ranked by pCTR, long_view by
pCTCVR, over all impressions. Differences are between means over the seeds; their 95 % intervals are paired and
bootstrapped by user (Poisson).

    python tests/benchmarks/quality_kuairand.py

The joined examples and every finished training stay in --work, so that an interrupted benchmark goes on where it was;
after a change of the code of models/ remove its folder `trainings`. An hour or two on 2 cores. The last line printed
is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import scipy.sparse
import tensorflow as tf
import tf_keras as keras
from kuairand import LABELS, SOURCE, Columns, Slice, last_day, paired_interval
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from models.balancing import AnyBalancer
from models.features import Feature, IdListFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import PRESETS, ModelConfig
from models.ranker import Ranker

REPOSITORY = Path(__file__).resolve().parents[2]
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
OUTPUTS = {"click": "pctr", "long_view": "pctcvr"}

SEEDS = (1, 2, 3)
TRIALS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights of the second task that the tuning tries; the first task's weight is 1."""
MISSION = ("uncertainty", "dwa", "htw", "pe_ltr", "gradnorm", "mgda", "pcgrad", "gradvac")
COMPARED = ("esmm", "mmoe", "ple")
LAYERS = {"units": [128], "dropout": 0.4}
GRID = {
    "esmm": {"heads": {"name": "entire_space", "tower": [128], "dropout": 0.4}},
    "shared_bottom": {"trunk": {"name": "shared_bottom", "bottom": LAYERS}},
    "soft_sharing": {"trunk": {"name": "soft_sharing", "bottom": LAYERS}},
    "cross_stitch": {"trunk": {"name": "cross_stitch", "bottom": LAYERS}},
    "sluice": {"trunk": {"name": "sluice", "bottom": LAYERS}},
    "mmoe": {"trunk": {"name": "mmoe", "experts": 4, "expert": LAYERS}},
    "cgc": {"trunk": {"name": "ple", "levels": 1, "task_experts": 1, "shared_experts": 2, "expert": LAYERS}},
    "ple": {"trunk": {"name": "ple", "levels": 2, "task_experts": 1, "shared_experts": 2, "expert": LAYERS}},
    "aitm": {"trunk": {"name": "aitm", "bottom": LAYERS}, "heads": {"name": "joint", "tower": [], "calibrator": 0.6}},
}
TOWER = {"name": "plain", "tower": [32]}
SINGLE = {"trunk": {"name": "embeddings_only"}, "heads": {"name": "joint", "tower": [128], "dropout": 0.4}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "quality_kuairand")
    parser.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--no-grid", action="store_true", help="only the comparison with the regression")
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)  # how the benchmark starts its workers
    arguments = parser.parse_args()
    if arguments.train:
        work_through([Training(**fields) for fields in arguments.train], arguments)
        return
    console = Console(stderr=True, highlight=False)
    console.print(f"joining and transforming {arguments.source}, minutes where {arguments.work} does not have it yet")
    data = Slice.make(arguments.source, arguments.work)
    console.print(f"{len(data.train['click']):,} training rows, {len(data.evaluation['click']):,} evaluation rows")

    reference, strengths = regression(data, arguments.work, console)
    carry_out([ranker_of_the_configuration(data, seed) for seed in SEEDS], arguments, console)
    result = {
        "benchmark": "quality_kuairand",
        "rows": {"train": len(data.train["click"]), "eval": len(data.evaluation["click"])},
        "users_eval": len(np.unique(data.evaluation["user"])),
        "seeds": len(SEEDS),
        "replicates": arguments.replicates,
        "labels": beside_the_regression(data, reference, strengths, arguments),
    }
    result["beats_logistic_regression"] = all(r["interval_95"][0] > 0 for r in result["labels"].values())
    ctcvr = result["labels"]["long_view"]["ranker"]["calibration"]
    result["pctcvr_calibrated_within_5_percent"] = bool(np.abs(np.array(ctcvr) - 1).max() <= 0.05)
    report_regression(result, Console(highlight=False))
    if not arguments.no_grid:
        result["tuning"] = tune(data, arguments, console)
        result["grid"] = grid(data, {p: t["weight"] for p, t in result["tuning"].items()}, arguments, console)
        report_grid(result, Console(highlight=False, width=140))
    print(json.dumps(result))
    sys.exit(0 if result["beats_logistic_regression"] and result["pctcvr_calibrated_within_5_percent"] else 1)


class Training:
    """One training: what is trained, how its tasks are balanced, with which seed, and which rows it scores.

    Its result is kept in a file named after all that decides on it.
    """

    def __init__(self, model: dict, balancer: dict, settings: dict, seed: int, validate: bool = False):
        self.model = model
        self.balancer = balancer
        self.settings = settings
        self.seed = seed
        self.validate = validate

    def path(self, work: Path) -> Path:
        name = hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:16]
        return work / "trainings" / f"{name}.npz"

    def scores(self, work: Path) -> Columns:
        return dict(np.load(self.path(work)))


def model_of(preset: str) -> dict:
    return {"preset": preset, "heads": TOWER} | GRID[preset]


def static(weight: float, first: float = 1.0) -> dict:
    return {"name": "static", "weights": {"ctr": first, "cvr": weight}}


def settings_of(data: Slice) -> dict:
    """The optimizer and the length of the training, as the configuration has them."""
    training = data.config.training
    optimizer = data.config.optimizer.model_dump(mode="json")
    return {"optimizer": optimizer, "epochs": training.epochs, "batch_size": training.batch_size}


def ranker_of_the_configuration(data: Slice, seed: int) -> Training:
    model, balancer = (part.model_dump(mode="json") for part in (data.config.model, data.config.balancer))
    return Training(model, balancer, settings_of(data), seed)


def carry_out(trainings: list[Training], arguments: argparse.Namespace, console: Console) -> None:
    """Trains what has not been trained yet, in processes of one thread each."""
    left = [t for t in trainings if not t.path(arguments.work).exists()]
    if not left:
        return
    (arguments.work / "trainings").mkdir(exist_ok=True)
    started = time.monotonic()
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--source",
        str(arguments.source),
        "--work",
        str(arguments.work),
    ]
    workers = [
        subprocess.Popen([*command, "--train", json.dumps([vars(t) for t in left[i :: arguments.workers]])])
        for i in range(min(arguments.workers, len(left)))
    ]
    while any(w.poll() is None for w in workers):
        time.sleep(20)
        done = sum(t.path(arguments.work).exists() for t in left)
        console.print(f"  {done} of {len(left)} trainings in {time.monotonic() - started:.0f} s")
    if failed := [w.returncode for w in workers if w.returncode]:
        raise RuntimeError(f"a worker ended with exit code {failed[0]}; its messages are above")


def work_through(trainings: list[Training], arguments: argparse.Namespace) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # The same machine prints the same figures again.
    tf.config.experimental.enable_op_determinism()
    data = Slice(arguments.work)
    held_out = last_day(data.train, data.config)
    for training in trainings:
        path = training.path(arguments.work)
        if path.exists():
            continue
        if training.validate:
            found = train_and_score(training, data, select(data.train, ~held_out), select(data.train, held_out))
        else:
            found = train_and_score(training, data, data.train, data.evaluation)
        aside = path.with_suffix(".part.npz")
        np.savez(aside, **found)
        aside.rename(path)
        keras.backend.clear_session()


def select(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def train_and_score(training: Training, data: Slice, train: Columns, rated: Columns) -> Columns:
    """Trains on all of `train`, in a new order at every epoch, and scores `rated`: p and seconds of the training."""
    keras.utils.set_random_seed(training.seed)
    config = data.config
    epochs, batch_size = training.settings["epochs"], training.settings["batch_size"]
    rows = len(train["click"])
    steps = -(-rows // batch_size)
    ranker = Ranker(
        config.features,
        data.rows,
        config.tasks,
        ModelConfig.model_validate_json(json.dumps(training.model)),
        TypeAdapter(AnyBalancer).validate_json(json.dumps(training.balancer)),
        OptimizerConfig.model_validate_json(json.dumps(training.settings["optimizer"])),
        steps=epochs * steps,
        steps_per_epoch=steps,
        seed=training.seed,
        probe_every=0,
    )
    ranker.compile()
    names = [f.name for f in config.features]
    inputs = {name: tf.constant(train[name]) for name in names}
    labels = tf.constant(np.stack([train[label] for label in LABELS], axis=1).astype(np.float32))
    rng = np.random.default_rng(training.seed)
    order = tf.constant(np.concatenate([rng.permutation(rows) for _ in range(epochs)]))

    def batch(indices: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return {name: tf.gather(values, indices) for name, values in inputs.items()}, tf.gather(labels, indices)

    started = time.monotonic()
    for epoch in range(epochs):
        indices = tf.data.Dataset.from_tensor_slices(order[epoch * rows : (epoch + 1) * rows]).batch(batch_size)
        ranker.fit(indices.map(batch).prefetch(2), verbose=0)
    seconds = time.monotonic() - started
    batches = tf.data.Dataset.from_tensor_slices({name: rated[name] for name in names}).batch(8192)
    scored = [ranker(b) for b in batches]
    return {name: np.concatenate([s[name] for s in scored]) for name in scored[0]} | {"seconds": np.array(seconds)}


def one_hot(features: tuple[Feature, ...], rows: dict[str, int], columns: Columns) -> scipy.sparse.csr_matrix:
    """A column per id, bucket and list member, and one per number."""
    parts = []
    for feature in features:
        values = columns[feature.name]
        n = len(values)
        if isinstance(feature, NumberFeature):
            parts.append(scipy.sparse.csr_matrix(values[:, None]))
        elif isinstance(feature, IdListFeature):
            row, position = np.nonzero(values)
            ones = (np.ones(len(row)), (row, values[row, position]))
            parts.append(scipy.sparse.csr_matrix(ones, shape=(n, rows[feature.table])).minimum(1))
        else:
            parts.append(scipy.sparse.csr_matrix((np.ones(n), (np.arange(n), values)), shape=(n, rows[feature.table])))
    return scipy.sparse.hstack(parts).tocsr()


def logistic_regression(
    x: scipy.sparse.csr_matrix, y: np.ndarray, held_out: np.ndarray, z: scipy.sparse.csr_matrix
) -> tuple[float, np.ndarray]:
    """Chooses C by the AUC on held-out training rows, fits on all of them, and scores z."""

    def fit(strength: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(x[rows], y[rows])

    aucs = [roc_auc_score(y[held_out], fit(c, ~held_out).decision_function(x[held_out])) for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(aucs))]
    return best, fit(best, np.ones(len(y), bool)).decision_function(z)


def regression(data: Slice, work: Path, console: Console) -> tuple[Columns, dict[str, float]]:
    """Scores of the logistic regressions on the evaluation days, and the strengths that were chosen."""
    kept = work / "regression.npz"
    if not kept.exists():
        features = data.config.features
        x, z = one_hot(features, data.rows, data.train), one_hot(features, data.rows, data.evaluation)
        found = {}
        for label in LABELS:
            chosen, scores = logistic_regression(x, data.train[label], last_day(data.train, data.config), z)
            found |= {label: scores, f"C_{label}": np.array(chosen)}
            console.print(f"logistic regression, {label}: C = {chosen:g} over {x.shape[1]:,} columns")
        np.savez(kept, **found)
    found = dict(np.load(kept))
    return {label: found[label] for label in LABELS}, {label: float(found[f"C_{label}"]) for label in LABELS}


def beside_the_regression(
    data: Slice, reference: Columns, strengths: dict[str, float], arguments: argparse.Namespace
) -> dict[str, dict]:
    scores = [ranker_of_the_configuration(data, seed).scores(arguments.work) for seed in SEEDS]
    found = {}
    for label, output in OUTPUTS.items():
        y, users = data.evaluation[label], data.evaluation["user"]
        rankers = [s[output] for s in scores]
        low, high = paired_interval(y, users, [reference[label]], rankers, arguments.replicates)
        aucs = [roc_auc_score(y, s) for s in rankers]
        reference_auc = roc_auc_score(y, reference[label])
        found[label] = {
            "base_rate": float(y.mean()),
            "logistic_regression": {"auc": reference_auc, "C": strengths[label]},
            "ranker": {"auc": aucs, "calibration": [float(s.mean() / y.mean()) for s in rankers]},
            "difference": float(np.mean(aucs) - reference_auc),
            "interval_95": [low, high],
        }
    return found


def tune(data: Slice, arguments: argparse.Namespace, console: Console) -> dict[str, dict]:
    """Per preset, the static weight of the second task with the best mean AUC on the last training day."""
    settings = settings_of(data)
    trials = {p: {w: Training(model_of(p), static(w), settings, SEEDS[0], True) for w in TRIALS} for p in GRID}
    console.print(f"tuning static weights: {len(TRIALS)} trainings for each of {len(GRID)} presets")
    carry_out([t for per_weight in trials.values() for t in per_weight.values()], arguments, console)
    held_out = select(data.train, last_day(data.train, data.config))
    found = {}
    for preset, per_weight in trials.items():
        means = {}
        for weight, training in per_weight.items():
            scores = training.scores(arguments.work)
            means[weight] = float(np.mean([roc_auc_score(held_out[y], scores[p]) for y, p in OUTPUTS.items()]))
        found[preset] = {"weight": max(means, key=means.__getitem__), "mean_auc": means}
    return found


def grid_rows(weights: dict[str, float]) -> Iterator[tuple[str, str, list[dict]]]:
    """Preset, balancer and the trainings of a seed: (model, balancer) of each."""
    for preset in GRID:
        yield preset, "tuned static", [(model_of(preset), static(weights[preset]))]
        balancers = MISSION if preset in COMPARED else ("pcgrad",)
        yield from ((preset, name, [(model_of(preset), {"name": name})]) for name in balancers)
    yield "single-task", "", [(SINGLE, static(0.0, 1.0)), (SINGLE, static(1.0, 0.0))]


def grid(data: Slice, weights: dict[str, float], arguments: argparse.Namespace, console: Console) -> list[dict]:
    """AUC, its spread over the seeds, and the difference to the preset's tuned static weights, per row of the grid."""
    rows = list(grid_rows(weights))
    assert set(PRESETS) == set(GRID), f"the grid lacks presets: {set(PRESETS) ^ set(GRID)}"
    trainings = {
        (preset, name): [[Training(m, b, settings_of(data), seed) for m, b in members] for seed in SEEDS]
        for preset, name, members in rows
    }
    console.print(f"the grid: {len(rows)} rows, {len(SEEDS)} seeds")
    carry_out([t for seeds in trainings.values() for members in seeds for t in members], arguments, console)
    scores: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for key, seeds in trainings.items():
        # The last training of a row ranks the second label: for single-task models that is the second model.
        ranked = {"click": [m[0] for m in seeds], "long_view": [m[-1] for m in seeds]}
        scores[key] = {y: [t.scores(arguments.work)[OUTPUTS[y]] for t in ts] for y, ts in ranked.items()}
    found = []
    users = data.evaluation["user"]
    for (preset, name), per_label in scores.items():
        row: dict = {"preset": preset, "balancer": name, "labels": {}}
        row["seconds"] = float(
            np.median([sum(float(t.scores(arguments.work)["seconds"]) for t in m) for m in trainings[preset, name]])
        )
        reference = scores.get((preset, "tuned static")) if name else scores["shared_bottom", "tuned static"]
        for label, rankers in per_label.items():
            y = data.evaluation[label]
            aucs = np.array([roc_auc_score(y, s) for s in rankers])
            row["labels"][label] = {
                "auc": float(aucs.mean()),
                "deviation": float(aucs.std(ddof=1)),
                "calibration": float(np.mean([s.mean() / y.mean() for s in rankers])),
            }
            if name != "tuned static":
                low, high = paired_interval(y, users, reference[label], rankers, min(arguments.replicates, 300))
                difference = aucs.mean() - np.mean([roc_auc_score(y, s) for s in reference[label]])
                row["labels"][label] |= {"difference": float(difference), "interval_95": [low, high]}
        found.append(row)
    return found


def report_regression(result: dict, console: Console) -> None:
    table = Table(title=f"KuaiRand, evaluation days, {result['seeds']} seeds", box=None, header_style="bold")
    for column in ("label", "base rate", "LR AUC", "ranker AUC", "difference", "95 % interval", "calibration"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, r in result["labels"].items():
        table.add_row(
            label,
            f"{r['base_rate']:.4f}",
            f"{r['logistic_regression']['auc']:.4f}",
            " ".join(f"{a:.4f}" for a in r["ranker"]["auc"]),
            f"{r['difference']:+.4f}",
            "{:+.4f} to {:+.4f}".format(*r["interval_95"]),
            " ".join(f"{c:.3f}" for c in r["ranker"]["calibration"]),
        )
    console.print(table)


def report_grid(result: dict, console: Console) -> None:
    table = Table(
        title="mean AUC ± deviation over seeds; difference to the same preset's tuned static weights", box=None
    )
    for column in ("preset", "balancer", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for label in LABELS:
        for column in (f"{label} AUC", "difference, 95 % interval", "calibration"):
            table.add_column(column, justify="right")
    for row in result["grid"]:
        weight = result["tuning"].get(row["preset"], {}).get("weight")
        cells = [row["preset"], f"static, 1 : {weight:g}" if row["balancer"] == "tuned static" else row["balancer"]]
        cells.append(f"{row['seconds']:.0f}")
        for label in LABELS:
            r = row["labels"][label]
            cells.append(f"{r['auc']:.4f} ± {r['deviation']:.4f}")
            cells.append(
                "{:+.4f}, {:+.4f} to {:+.4f}".format(r["difference"], *r["interval_95"]) if "difference" in r else ""
            )
            cells.append(f"{r['calibration']:.3f}")
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    main()
