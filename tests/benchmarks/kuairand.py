"""What the benchmarks on KuaiRand share: the slice, joined and transformed by the pipeline, and paired intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from models.preprocessing import table_rows
from pipeline.config import Config, load
from pipeline.datasets.kuairand import convert
from pipeline.local_runner import run_pipeline
from pipeline.pipeline import create_pipeline, resolve_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY.parent / "shared" / "data" / "kuairand"
CONFIG = REPOSITORY / "pipeline" / "configs" / "kuairand.yaml"
LABELS = ("click", "long_view")

Columns = dict[str, np.ndarray]


class Slice:
    """The slice as arrays, as `make` left it in `work`.

    Attributes:
      config: pipeline/configs/kuairand.yaml.
      rows: rows of each embedding table.
      train, evaluation: transformed features, labels, `user` (number of the user) and `time` (epoch ms).
    """

    def __init__(self, work: Path):
        self.config = load(CONFIG, logs=work / "logs")
        self.rows: dict[str, int] = json.loads((work / "rows.json").read_text())
        self.train, self.evaluation = (dict(np.load(work / f"{split}.npz")) for split in ("train", "eval"))

    @classmethod
    def make(cls, source: Path, work: Path) -> Slice:
        """Joins and transforms the logs at `source` where `work` does not have that yet."""
        convert(source, work / "logs")
        config = load(CONFIG, logs=work / "logs")
        transform, examples = prepare(config, work)
        (work / "rows.json").write_text(json.dumps(table_rows(config.features, transform)))
        for split in ("train", "eval"):
            path = work / f"{split}.npz"
            if not path.exists() or path.stat().st_mtime < examples.stat().st_mtime:
                np.savez(path, **transformed(examples / f"Split-{split}", transform, config))
        return cls(work)


def prepare(config: Config, work: Path) -> tuple[tft.TFTransformOutput, Path]:
    """Joins and transforms the logs by the pipeline's own components: the transform, and the joined examples."""
    inputs = resolve_inputs(config, work / "run")
    run = run_pipeline(create_pipeline(config, (work / "run").resolve(), inputs), work / "run", only=("Transform",))
    return tft.TFTransformOutput(str(run.output("Transform", "transform_graph"))), run.output(
        "LogExampleGen", "examples"
    )


def transformed(folder: Path, transform: tft.TFTransformOutput, config: Config) -> Columns:
    """Joined examples through the transform, with who was shown them and when beside each row."""
    keys = {"user_id": tf.io.FixedLenFeature([], tf.string), "event_time": tf.io.FixedLenFeature([], tf.int64)}
    names = [*(f.name for f in config.features), *LABELS]
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


def paired_interval(
    y: np.ndarray, users: np.ndarray, references: list[np.ndarray], rankers: list[np.ndarray], replicates: int
) -> tuple[float, float]:
    """95 % interval of mean AUC of the rankers - mean AUC of the references, by a Poisson bootstrap of users."""
    rng = np.random.default_rng(0)
    sorted_references, sorted_rankers = ([Ranking(y, scores) for scores in group] for group in (references, rankers))
    differences = []
    for _ in range(replicates):
        weights = rng.poisson(1.0, users.max() + 1)[users].astype(np.float64)
        means = [np.mean([r.auc(weights) for r in group]) for group in (sorted_rankers, sorted_references)]
        differences.append(means[0] - means[1])
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
