"""Do the intervals of the offline comparison mean what they say, and what does a million rows cost?

On simulated data whose truth is known:
1. Coverage: 95 % intervals of differences between two scorers of different quality, in many comparisons of 500 users
   with effects of their own. The truth is the difference on 1.6 million other rows.
2. False promotions: two different scorers of equal true quality, and a rule that asks for a better AUC.
3. Clustering: rows of a user have correlated differences of losses. The clustered interval over that of a bootstrap by
   row, beside what the theory of equal clusters says: sqrt(1 + (m - 1) ρ), ρ the intraclass correlation.
4. Cost: a million rows of two SavedModels, scored in one pass, three tasks, eleven metrics and more, one kind of slice;
   200 and 2000 replicates. Time, and peak memory of the process.
5. Off-policy: coverage of each estimator on simulated logs with known propensities.

    python tests/benchmarks/evidence.py

Exit code 1 where one of the statements does not hold. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.runtime import prepare_process

prepare_process()

import numpy as np
import pyarrow as pa
import tensorflow as tf
from evidence_worlds import logged, scored_rows, sigmoid
from scipy.stats import norm

from components.offline_ab.comparison import compare_metrics
from components.offline_ab.config import EvidenceConfig, OffPolicyConfig, Rule
from components.offline_ab.off_policy import off_policy_values
from components.offline_ab.rows import ScoredRows
from components.offline_ab.rules import judge
from models.metrics import hash_ids
from models.tasks import DEFAULT_TASKS, outputs

OUTPUTS = outputs(DEFAULT_TASKS)
ROWS_PER_USER = 8
COVERED = {
    "ctr": ("auc", "pr_auc", "gauc", "log_loss", "normalised_entropy", "calibration", "ndcg@2", "map@2"),
    "cvr": ("auc", "log_loss", "calibration"),
    "ctcvr": ("auc", "log_loss", "normalised_entropy", "calibration", "value@2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=400)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the timed comparison")
    parser.add_argument("--parts", nargs="+", default=["coverage", "null", "clustering", "cost", "off_policy"])
    parser.add_argument("--timed", nargs=2, metavar=("FOLDER", "REPLICATES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.timed:
        timed(Path(arguments.timed[0]), int(arguments.timed[1]))
        return
    parts = {
        "coverage": lambda: coverage(arguments.comparisons),
        "null": lambda: false_promotions(arguments.comparisons),
        "clustering": clustering,
        "cost": lambda: cost(arguments.rows),
        "off_policy": lambda: off_policy(arguments.comparisons),
    }
    result: dict = {"benchmark": "evidence"}
    for name in arguments.parts:
        started = time.monotonic()
        result[name] = parts[name]()
        result[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    result["holds"] = all(result[name]["holds"] for name in arguments.parts)
    print(json.dumps(result))
    sys.exit(0 if result["holds"] else 1)


def differences(rows: ScoredRows, config: EvidenceConfig) -> dict[tuple[str, str], tuple[float, float, float]]:
    found, _ = compare_metrics(rows, OUTPUTS, (), config)
    return {
        (m.task, m.metric): (m.difference.value, m.difference.low, m.difference.high)
        for m in found
        if m.metric in COVERED[m.task]
    }


def coverage(comparisons: int) -> dict:
    world = {"noise": (0.9, 0.6), "bias": (0.1, 0.0), "rows_per_user": ROWS_PER_USER, "price": True}
    truth = differences(scored_rows(seed=10**6, users=200_000, **world), EvidenceConfig(replicates=50, at_k=2))
    covered = dict.fromkeys(truth, 0)
    config = EvidenceConfig(replicates=200, minimum_positives=20, at_k=2)
    for seed in range(comparisons):
        for key, (_, low, high) in differences(scored_rows(seed=seed, users=500, **world), config).items():
            covered[key] += low <= truth[key][0] <= high
    shares = {f"{task} {metric}": n / comparisons for (task, metric), n in covered.items()}
    return {
        "comparisons": comparisons,
        "coverage": shares,
        "lowest": min(shares.values()),
        "highest": max(shares.values()),
        "holds": all(0.92 <= share <= 0.98 for share in shares.values()),
    }


def false_promotions(comparisons: int) -> dict:
    config = EvidenceConfig(replicates=200, rules=(Rule(task="ctr", metric="auc", better_by=0.0),))
    verdicts = []
    for seed in range(comparisons):
        rows = scored_rows(seed=2000 + seed, users=500, rows_per_user=ROWS_PER_USER, noise=(0.7, 0.7))
        found, _ = compare_metrics(rows, OUTPUTS[:1], (), config)
        verdicts.append(judge(found, config)[0])
    promoted = verdicts.count("promote")
    return {"comparisons": comparisons, "promoted": promoted, "holds": promoted <= 17 * comparisons / 400}


def correlated_rows(seed: int, users: int, by_user: bool = True) -> ScoredRows:
    """The baseline errs by user: its log-odds are off by an amount of each user's own."""
    rng = np.random.default_rng(seed)
    n = users * ROWS_PER_USER
    user = np.repeat(np.arange(users), ROWS_PER_USER)
    logit = rng.normal(-1, 0.7, n)
    click = (rng.random(n) < sigmoid(logit)).astype(np.float32)
    wrong = sigmoid(logit + rng.normal(0, 1.2, users)[user])
    ids = hash_ids([str(i) for i in range(users if by_user else n)])
    return ScoredRows(
        users=ids[user] if by_user else ids,
        requests=np.arange(n).astype(np.uint64),
        labels={"click": click},
        scores={"baseline": {"pctr": wrong.astype("f4")}, "candidate": {"pctr": sigmoid(logit).astype("f4")}},
    )


def intraclass_correlation(values: np.ndarray) -> float:
    """Of [clusters, m], from the mean squares between and within clusters (one-way analysis of variance)."""
    clusters, m = values.shape
    between = m * values.mean(axis=1).var(ddof=1)
    within = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum() / (clusters * (m - 1))
    return float((between - within) / (between + (m - 1) * within))


def clustering(comparisons: int = 60) -> dict:
    big = correlated_rows(10**6, 200_000)
    y = big.labels["click"].astype(float)
    losses = {}
    for side in big.sides:
        p = big.scores[side]["pctr"].astype(float)
        losses[side] = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    rho = intraclass_correlation((losses["candidate"] - losses["baseline"]).reshape(-1, ROWS_PER_USER))
    theory = float(np.sqrt(1 + (ROWS_PER_USER - 1) * rho))
    config = EvidenceConfig(replicates=500)
    widths = []
    for seed in range(comparisons):
        pair = []
        for by_user in (True, False):
            found, _ = compare_metrics(correlated_rows(seed, 1000, by_user), OUTPUTS[:1], (), config)
            (loss,) = [m for m in found if m.metric == "log_loss"]
            pair.append(loss.difference.high - loss.difference.low)
        widths.append(pair)
    ratio = float(np.divide(*np.mean(widths, axis=0)))
    return {
        "intraclass_correlation": rho,
        "theory": theory,
        "measured": ratio,
        "holds": bool(abs(ratio / theory - 1) <= 0.15 and ratio > 1),
    }


def cost(rows: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        make_examples(Path(folder), rows)
        found = {}
        for replicates in (200, 2000):
            command = [sys.executable, str(Path(__file__).resolve()), "--timed", folder, str(replicates)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            found[replicates] = json.loads(done.stdout.strip().splitlines()[-1])
    few, many = found[200], found[2000]
    limits = few["seconds"] < 180 and few["peak_gib"] < 2 and many["seconds"] < 2 * few["seconds"]
    return {"rows": rows, "replicates_200": few, "replicates_2000": many, "holds": bool(limits)}


class ToyRanker(tf.Module):
    """pctr = sigmoid(slope · x), pcvr = sigmoid(slope · z): next to no time goes into the models themselves."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = tf.Variable(slope)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(self, examples):
        raw = tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([], tf.float32) for name in ("x", "z")})
        pctr, pcvr = tf.sigmoid(self.slope * raw["x"]), tf.sigmoid(self.slope * raw["z"])
        return {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr}


def make_examples(folder: Path, rows: int, shards: int = 16) -> None:
    from components.log_example_gen.encoding import write_examples

    rng = np.random.default_rng(0)
    for name in ("examples", "partial"):
        (folder / name).mkdir()
    for side, slope in (("a", 0.8), ("b", 1.0)):
        model = ToyRanker(slope)
        tf.saved_model.save(model, str(folder / side), signatures={"serving_default": model.serving_default})
    for shard in range(shards):
        n = rows // shards
        x, z = rng.normal(-2, 1, n), rng.normal(-1.5, 1, n)
        click = rng.random(n) < sigmoid(x)
        user = rng.integers(0, rows // 12, n)
        table = pa.table(
            {
                "x": x,
                "z": z,
                "user_id": pa.array([f"user-{u}" for u in user]),
                "request_id": pa.array([f"request-{u}-{r}" for u, r in zip(user, rng.integers(0, 2, n))]),
                "event_time": rng.integers(1_700_000_000_000, 1_700_086_400_000, n),
                "device": pa.array(rng.choice(["phone", "tablet", "web", "tv", "app"], n)),
                "price": rng.lognormal(2, 1, n),
                "click": click.astype(np.int64),
                "purchase": (click & (rng.random(n) < sigmoid(z))).astype(np.int64),
            }
        )
        write_examples(table, str(folder / "examples" / f"{shard:05d}"), str(folder / "partial"))


def timed(folder: Path, replicates: int) -> None:
    import apache_beam as beam

    from components.offline_ab.document import Scorer
    from components.offline_ab.executor import compare, example_files

    times = {}
    started, cpu = time.monotonic(), time.process_time()
    read = sys.modules["components.offline_ab.executor"].read_scores

    def read_scores(path: str) -> ScoredRows:
        times["scoring"] = time.monotonic() - started
        return read(path)

    sys.modules["components.offline_ab.executor"].read_scores = read_scores
    found = compare(
        example_files([str(folder / "examples")]),
        DEFAULT_TASKS,
        [["device"]],
        EvidenceConfig(replicates=replicates, price="price", rules=(Rule(task="ctr", metric="auc", better_by=0.0),)),
        baseline=(Scorer(name="a", source="a"), str(folder / "a")),
        candidate=(Scorer(name="b", source="b"), str(folder / "b")),
        folder=str(folder / f"out-{replicates}"),
        pipeline=beam.Pipeline(argv=["--runner=FnApiRunner"]),
    )
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - started, 1),
                "of_scoring": round(times["scoring"], 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "results": len(found.metrics),
                "users": found.data.users,
            }
        )
    )


def off_policy(runs: int) -> dict:
    config = EvidenceConfig(
        replicates=200, off_policy=OffPolicyConfig(propensity="p", reward="click", chosen="c", clip=1000.0)
    )
    covered: dict[str, int] = {}
    errors: dict[str, list[float]] = {}
    # Of the population of requests, not of those of a run: its interval is for the former.
    truth = float(logged(10**6, requests=400_000)[1][1])
    for seed in range(runs):
        rows, _ = logged(seed + 5000, requests=2000)
        for value in off_policy_values(rows, OUTPUTS[:1], config):
            covered[value.estimator] = covered.get(value.estimator, 0) + (
                value.candidate.low <= truth <= value.candidate.high
            )
            errors.setdefault(value.estimator, []).append(value.candidate.value - truth)
    shares = {name: n / runs for name, n in covered.items()}
    # A mean error beyond four of its standard errors would be a bias.
    bias = {name: float(np.mean(e) / (np.std(e) / np.sqrt(runs))) for name, e in errors.items()}
    return {
        "runs": runs,
        "truth": truth,
        "coverage": shares,
        "root_mean_square_error": {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()},
        "mean_error_in_standard_errors": bias,
        "holds": all(0.92 <= s <= 0.98 for s in shares.values())
        and all(abs(b) < norm.isf(1e-4) for b in bias.values()),
    }


if __name__ == "__main__":
    main()
