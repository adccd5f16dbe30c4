"""Does the ranker beat a logistic regression on real impressions?

On the KuaiRand slice, with the days, features and ranker of pipeline/configs/kuairand.yaml:
- the reference is a one-hot logistic regression per label on the same transformed features and the same rows; its
  strength of regularisation is chosen on the last training day;
- the ranker is trained with each seed on the training days;
- both score the evaluation days. Reported per label: AUC, and the difference with its 95 % interval, paired and
  bootstrapped by user (Poisson), of the mean over the seeds. long_view is ranked by pCTCVR over all impressions.

    python tests/benchmarks/quality_kuairand.py --source ../shared/data/kuairand

The joined and transformed examples stay in --work, so that a second run begins with the training. The last line
printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import scipy.sparse
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from components.log_example_gen.window import inputs_fingerprint, resolve_window
from components.trainer.input import count_examples, read_examples
from models.features import Feature, IdListFeature, NumberFeature
from models.preprocessing import table_rows
from models.ranker import Ranker
from pipeline.config import Config, load
from pipeline.datasets.kuairand import convert
from pipeline.local_runner import run_pipeline
from pipeline.pipeline import RunInputs, create_pipeline, read_schema

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "pipeline" / "configs" / "kuairand.yaml"
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
SCORES = {"click": "pctr", "long_view": "pctcvr"}

Columns = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, default=REPOSITORY.parent / "shared" / "data" / "kuairand")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "quality_kuairand")
    parser.add_argument("--seeds", type=int, default=3, help="rankers to train")
    parser.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    # The same machine prints the same figures again.
    tf.config.experimental.enable_op_determinism()

    console.print(f"joining and transforming {arguments.source}, minutes where {arguments.work} does not have it yet")
    convert(arguments.source, arguments.work / "logs")
    config = load(CONFIG, logs=arguments.work / "logs")
    train_files, transform, train, evaluation = prepare(config, arguments.work)
    console.print(f"{len(train['click']):,} training rows, {len(evaluation['click']):,} evaluation rows")

    reference, strengths = {}, {}
    rows = table_rows(config.features, transform)
    x, z = one_hot(config.features, rows, train), one_hot(config.features, rows, evaluation)
    for label in SCORES:
        strengths[label], reference[label] = logistic_regression(x, train[label], last_day(train, config), z)
        console.print(f"logistic regression, {label}: C = {strengths[label]:g} over {x.shape[1]:,} columns")

    scores, seconds = [], []
    for seed in range(1, arguments.seeds + 1):
        started = time.monotonic()
        scores.append(train_and_score(config, train_files, transform, rows, evaluation, seed))
        seconds.append(time.monotonic() - started)
        console.print(f"ranker, seed {seed}: {seconds[-1]:.0f} s")

    result = {
        "benchmark": "quality_kuairand",
        "rows": {"train": len(train["click"]), "eval": len(evaluation["click"])},
        "users_eval": len(np.unique(evaluation["user"])),
        "seeds": arguments.seeds,
        "replicates": arguments.replicates,
        "train_seconds": [round(s, 1) for s in seconds],
        "labels": {},
    }
    for label, output in SCORES.items():
        y = evaluation[label]
        rankers = [s[output] for s in scores]
        low, high = paired_interval(y, evaluation["user"], reference[label], rankers, arguments.replicates)
        aucs = [roc_auc_score(y, s) for s in rankers]
        reference_auc = roc_auc_score(y, reference[label])
        result["labels"][label] = {
            "base_rate": float(y.mean()),
            "logistic_regression": {"auc": reference_auc, "C": strengths[label]},
            "ranker": {"auc": aucs, "calibration": [float(s.mean() / y.mean()) for s in rankers]},
            "difference": float(np.mean(aucs) - reference_auc),
            "interval_95": [low, high],
        }
    result["beats_logistic_regression"] = all(r["interval_95"][0] > 0 for r in result["labels"].values())
    ctcvr = result["labels"]["long_view"]["ranker"]["calibration"]
    result["pctcvr_calibrated_within_5_percent"] = bool(np.abs(np.array(ctcvr) - 1).max() <= 0.05)
    report(result, Console(highlight=False))
    print(json.dumps(result))
    sys.exit(0 if result["beats_logistic_regression"] and result["pctcvr_calibrated_within_5_percent"] else 1)


def prepare(config: Config, work: Path) -> tuple[list[str], tft.TFTransformOutput, Columns, Columns]:
    """Joins and transforms the logs by the pipeline's own components.

    Returns:
      Patterns of the transformed training files, the transform, and the columns of both splits: transformed
      features, labels, `user` (number of the user) and `time` (epoch ms).
    """
    window = resolve_window(config.logs, config.attribution, config.window)
    fingerprint = inputs_fingerprint(config.logs, config.attribution, window)
    inputs = RunInputs(window=window, inputs_fingerprint=fingerprint, schema_text=read_schema(config))
    run = run_pipeline(create_pipeline(config, (work / "run").resolve(), inputs), work / "run", only=("Transform",))
    transform = tft.TFTransformOutput(str(run.output("Transform", "transform_graph")))
    examples = run.output("LogExampleGen", "examples")
    splits = [transformed(examples / f"Split-{split}", transform, config) for split in ("train", "eval")]
    files = [str(run.output("Transform", "transformed_examples") / "Split-train" / "*")]
    return files, transform, splits[0], splits[1]


def transformed(folder: Path, transform: tft.TFTransformOutput, config: Config) -> Columns:
    """Joined examples through the transform, with who was shown them and when beside each row."""
    keys = {"user_id": tf.io.FixedLenFeature([], tf.string), "event_time": tf.io.FixedLenFeature([], tf.int64)}
    names = [*(f.name for f in config.features), *SCORES]
    spec = {name: feature for name, feature in transform.raw_feature_spec().items() if name in names}
    layer = transform.transform_features_layer()
    parts: list[Columns] = []
    for batch in tf.data.TFRecordDataset(sorted(map(str, folder.glob("*")))).batch(8192):
        columns = {k: v.numpy() for k, v in layer(tf.io.parse_example(batch, spec)).items()}
        who = tf.io.parse_example(batch, keys)
        parts.append(columns | {"user": who["user_id"].numpy(), "time": who["event_time"].numpy()})
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    columns["user"] = np.unique(columns["user"], return_inverse=True)[1]
    return columns


def last_day(columns: Columns, config: Config) -> np.ndarray:
    """Rows of the last day, in the logs' time zone."""
    days = (columns["time"].astype("datetime64[ms]") + np.timedelta64(8, "h")).astype("datetime64[D]")
    if config.logs.timezone != "Asia/Shanghai":
        raise ValueError(f"expected the zone Asia/Shanghai (UTC+8, no summer time), got {config.logs.timezone}")
    return days == days.max()


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


def train_and_score(
    config: Config, files: list[str], transform: tft.TFTransformOutput, rows: dict[str, int], rated: Columns, seed: int
) -> Columns:
    """Trains as the Trainer component does and scores the evaluation rows."""
    keras.utils.set_random_seed(seed)
    training = config.training.model_copy(update={"seed": seed})
    labels = [t.label for t in config.tasks]
    ranker = Ranker(
        config.features,
        rows,
        config.tasks,
        config.model,
        config.balancer,
        config.optimizer,
        steps=training.epochs * -(-count_examples(files) // training.batch_size),
        seed=seed,
        probe_every=training.probe_every,
    )
    ranker.compile()
    train = read_examples(files, transform, config.features, labels, training, shuffle=True)
    ranker.fit(train, epochs=training.epochs, verbose=0)
    inputs = {f.name: rated[f.name] for f in config.features}
    batches = tf.data.Dataset.from_tensor_slices(inputs).batch(8192)
    scored = [ranker(batch) for batch in batches]
    return {name: np.concatenate([s[name] for s in scored]) for name in scored[0]}


def paired_interval(
    y: np.ndarray, users: np.ndarray, reference: np.ndarray, rankers: list[np.ndarray], replicates: int
) -> tuple[float, float]:
    """95 % interval of mean AUC of the rankers - AUC of the reference, by a Poisson bootstrap of users."""
    rng = np.random.default_rng(0)
    sorted_reference = Ranking(y, reference)
    sorted_rankers = [Ranking(y, scores) for scores in rankers]
    differences = []
    for _ in range(replicates):
        weights = rng.poisson(1.0, users.max() + 1)[users].astype(np.float64)
        differences.append(np.mean([r.auc(weights) for r in sorted_rankers]) - sorted_reference.auc(weights))
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


class Ranking:
    """Rows sorted by score once, for many weighted AUCs; tied scores count half."""

    def __init__(self, y: np.ndarray, scores: np.ndarray):
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self.ties = np.cumsum(np.concatenate([[0], ordered[1:] != ordered[:-1]]))
        self.positive = y[self.order].astype(np.float64)

    def auc(self, weights: np.ndarray) -> float:
        weights = weights[self.order]
        positive = np.bincount(self.ties, weights * self.positive)
        negative = np.bincount(self.ties, weights * (1 - self.positive))
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / (positive.sum() * negative.sum()))


def report(result: dict, console: Console) -> None:
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


if __name__ == "__main__":
    main()
