"""Negative sampling: which rows are kept, what they weigh, and that probabilities stay calibrated."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from pydantic import ValidationError

from components.log_example_gen.attribution import rules
from components.log_example_gen.config import SamplingConfig
from components.log_example_gen.join import join
from components.log_example_gen.parsing import key_hash, log_specs
from components.log_example_gen.sampling import Sampling
from models.balancing import Static
from models.features import NumberFeature
from models.heads import EntireSpaceConfig, JointConfig, PlainConfig
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.ranker import Ranker
from models.tasks import DEFAULT_TASKS
from tests.components.log_example_gen.log_files import (
    attribution_config,
    event,
    exposure,
    logs_config,
    ms,
    run,
    window_of_days,
    write_logs,
)  # fmt: skip

HALF = SamplingConfig(keep={"click": 0.25, "purchase": 0.5}, seed=7)


class TestDraw:
    ROWS = 40_000

    @pytest.fixture(scope="class")
    def population(self):
        rng = np.random.default_rng(0)
        click = rng.random(self.ROWS) < 0.3
        labels = [click.astype(np.int64), (click & (rng.random(self.ROWS) < 0.4)).astype(np.int64)]
        ids = [pa.chunked_array([pa.array([f"{of}{i}" for i in range(self.ROWS)])]) for of in "ri"]
        return labels, key_hash(*ids)

    def test_shares_and_weights_by_step(self, population):
        (click, purchase), hashes = population
        kept, weight = Sampling((0.25, 0.5), seed=0).draw([click, purchase], hashes)
        for rows, rate in ((click == 0, 0.25), ((click == 1) & (purchase == 0), 0.5), (purchase == 1, 1.0)):
            n, found = rows.sum(), rows[kept].sum()
            # Six standard deviations of a binomial.
            assert abs(found - n * rate) <= 6 * np.sqrt(n * rate * (1 - rate))
            assert set(weight[rows[kept]]) == {1 / rate}
        # Weights stand for all rows; the deviation is that of the two draws.
        variance = (click == 0).sum() * 3 + ((click == 1) & (purchase == 0)).sum()
        assert abs(weight.sum() - self.ROWS) < 6 * np.sqrt(variance)

    def test_a_row_kept_at_a_rate_is_kept_at_a_higher_one(self, population):
        labels, hashes = population
        few, some = (set(Sampling((rate, 1.0), seed=3).draw(labels, hashes)[0]) for rate in (0.1, 0.3))
        assert few < some

    def test_the_seed_decides(self, population):
        labels, hashes = population
        draws = [Sampling((0.5, 1.0), seed=s).draw(labels, hashes)[0] for s in (0, 0, 1, 2**62)]
        assert np.array_equal(draws[0], draws[1])
        sets = [set(d) - set(np.flatnonzero(labels[0])) for d in draws[1:]]
        negatives = (labels[0] == 0).sum()
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert len(sets[one] & sets[other]) == pytest.approx(negatives / 4, rel=0.05)

    def test_is_not_tied_to_the_bucket(self, population):
        labels, hashes = population
        kept, _ = Sampling((0.5, 1.0), seed=0).draw(labels, hashes)
        negative = np.flatnonzero(labels[0] == 0)
        half = hashes[negative] >> np.uint64(63) == 1
        for rows in (negative[half], negative[~half]):
            assert np.isin(rows, kept).mean() == pytest.approx(0.5, abs=0.03)


class TestJoined:
    LOGS = logs_config("/nowhere")
    SPECS = log_specs(LOGS, ())
    WINDOW = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-09 00:00")

    @pytest.fixture(scope="class")
    def tables(self):
        rng = np.random.default_rng(1)
        start = ms("2026-01-02")
        rows = {
            "exposures": [
                {"request_id": f"r{i}", "item_id": "x", "user_id": "u", "event_time": start + int(t)}
                for i, t in enumerate(rng.integers(0, 2 * 86_400_000, 600))
            ]
        }
        rows["click"] = [{**r, "event_time": r["event_time"] + d} for r in rows["exposures"][::3] for d in (5, 9)]
        rows["purchase"] = [{**r, "event_time": r["event_time"] + 1, "value": 2.0} for r in rows["click"][::8]]
        return {log: self.table(self.SPECS[log], rows[log]) for log in self.SPECS}

    def table(self, spec, rows):
        columns = {c.name: pa.array([row[c.name] for row in rows], c.type) for c in spec.columns}
        columns["hash"] = pa.array(key_hash(*(pa.chunked_array([columns[n]]) for n in ("request_id", "item_id"))))
        return pa.table(columns).cast(spec.schema)

    def join(self, tables, days=WINDOW.days, sampling=HALF):
        return join(tables, self.SPECS, rules(self.LOGS, attribution_config(), days, self.WINDOW.data_end_ms, sampling))

    def test_the_sample_does_not_depend_on_buckets_order_or_days(self, tables):
        def rows(parts):
            return [row for joined in parts for day in joined.training.values() for row in day.to_pylist()]

        whole = rows([self.join(tables)])
        ends = [np.asarray(t.column("hash")) >> np.uint64(62) for t in tables.values()]
        buckets = [
            {log: t.filter(pa.array(end == n)) for (log, t), end in zip(tables.items(), ends)} for n in range(4)
        ]
        backwards = {log: t.take(pa.array(np.arange(len(t))[::-1])) for log, t in tables.items()}
        by_id = {row["request_id"]: row for row in whole}
        assert len(by_id) == len(whole) > 200
        apart = [[self.join(b) for b in buckets], [self.join(backwards)], [self.join(tables, [d]) for d in DAYS]]
        for parts in apart:
            assert {row["request_id"]: row for row in rows(parts)} == by_id
        assert rows(apart[0]) != rows(apart[0][::-1])

    def test_both_forms_of_a_day(self, tables):
        joined, plain = self.join(tables), self.join(tables, sampling=None)
        for day, rows in joined.examples.items():
            assert set(rows.column("weight").to_pylist()) == {1.0}
            assert rows.drop(["weight"]) == plain.examples[day]
            training = joined.training[day]
            assert set(training.column("weight").to_pylist()) == {1.0, 2.0, 4.0}
            ids = set(training.column("request_id").to_pylist())
            expected = [row for row in plain.examples[day].to_pylist() if row["request_id"] in ids]
            assert training.drop(["weight"]).to_pylist() == expected
            out = len(rows) - len(training)
            assert joined.sampled_out["exposures"][day.isoformat()] == out > 0
            lost = [row for row in rows.to_pylist() if row["request_id"] not in ids]
            clicks = sum(row["click_count"] for row in lost)
            assert joined.sampled_out["click"][day.isoformat()] == clicks > 0
            assert day.isoformat() not in joined.sampled_out["purchase"]
        assert joined.outcomes == plain.outcomes
        assert plain.training == plain.examples
        assert plain.sampled_out == {}
        assert "weight" not in plain.examples[self.WINDOW.first_day].column_names

    def test_rates_of_1_turn_it_off(self):
        for keep in ({}, {"click": 1.0}):
            off = SamplingConfig(keep=keep)
            assert not off.on
            assert rules(self.LOGS, attribution_config(), self.WINDOW.days, 0, off).sampling is None


DAYS = TestJoined.WINDOW.days


def test_a_run_samples_training_days_only_and_counts_what_is_out(tmp_path):
    shown = [exposure(f"r{i}", f"2026-01-0{2 + i % 2} 10:00") for i in range(120)]
    clicks = [event(f"r{i}", f"2026-01-0{2 + i % 2} 10:01") for i in range(0, 120, 3)]
    bought = [event(f"r{i}", f"2026-01-0{2 + i % 2} 10:05", value=1.0) for i in range(0, 120, 12)]
    write_logs(tmp_path / "logs", "csv", shown, clicks, bought)
    window = window_of_days("2026-01-02", "2026-01-03", "2026-01-03", "2026-01-05 00:30")
    logs = logs_config(tmp_path / "logs", "csv")
    got = run(tmp_path / "out", logs, (), window, sampling=HALF)
    weights = {split: [] for split in ("train", "eval")}
    for (request, _), row in got.rows.items():
        split = "train" if int(request[1:]) % 2 == 0 else "eval"
        weights[split].append(row["weight"][0])
        assert row["weight"][0] == 1.0 or row["purchase"][0] == 0
    # The filler of a day is an exposure without a click.
    assert weights["eval"] == [1.0] * 60
    assert got.report["examples"]["eval"]["rows"] == 61
    assert set(weights["train"]) == {1.0, 2.0, 4.0}
    train = got.report["examples"]["train"]
    outcomes = {log: counts["outcomes"] for log, counts in got.report["logs"].items()}
    assert outcomes["exposures"]["sampled_out"] == {"": 61 - train["rows"]}
    assert outcomes["exposures"]["joined"] == {"": 61 + train["rows"]}
    assert outcomes["click"]["sampled_out"] == {"": 20 - train["labels"]["click"]}
    assert "sampled_out" not in outcomes["purchase"]
    assert train["labels"]["purchase"] == 10


@pytest.mark.parametrize(
    "heads",
    [
        PlainConfig(name="plain", tower=()),
        EntireSpaceConfig(name="entire_space", tower=()),
        JointConfig(name="joint", tower=()),
    ],
    ids=lambda heads: heads.name,
)
def test_a_model_of_sampled_rows_is_calibrated_on_all_rows(heads):
    rng = np.random.default_rng(5)
    n, batch, epochs = 40_000, 256, 12
    x = rng.normal(size=n).astype(np.float32)
    click = rng.random(n) < 1 / (1 + np.exp(2 - x))
    purchase = click & (rng.random(n) < 1 / (1 + np.exp(0.5 - 0.7 * x)))
    labels = np.stack([click, purchase], axis=1).astype(np.float32)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    kept, weight = Sampling((0.1, 0.5), seed=0).draw(list(labels.T), hashes)
    assert len(kept) < n / 4
    # As the transform has them: over the mean of all rows, and of the clicked ones.
    weights = np.stack([weight / weight.mean(), weight / weight[click[kept]].mean()], axis=1).astype(np.float32)

    def calibration(weighted):
        steps = -(-len(kept) // batch) * epochs
        dense = {"learning_rate": 0.05, "schedule": "cosine"}
        ranker = Ranker(
            (NumberFeature(kind="number", name="x", side="item"),),
            {},
            DEFAULT_TASKS,
            ModelConfig(trunk={"name": "embeddings_only"}, heads=heads),
            Static(name="static"),
            OptimizerConfig(dense=dense),
            steps=steps,
            probe_every=0,
        )
        ranker.compile()
        rows = {"x": x[kept]}, labels[kept], *([weights] if weighted else [])
        batches = tf.data.Dataset.from_tensor_slices(rows).shuffle(20_000, seed=1).batch(batch)
        ranker.fit(batches, epochs=epochs, verbose=0)
        scores = {name: p.numpy().astype(np.float64) for name, p in ranker({"x": x}).items()}
        # On the rows that its loss is over, a fitted intercept makes each of them right.
        over = {"ctr": (slice(None), click), "cvr": (click, purchase), "ctcvr": (slice(None), purchase)}
        return {
            name: scores["p" + name][over[name][0]].sum() / over[name][1].sum() for name in ranker.heads.loss_names
        }

    # A tenth of 33,500 rows decides on the rate of clicks: 1.6 % of standard deviation; a run of this length adds some.
    for name, ratio in calibration(weighted=True).items():
        assert ratio == pytest.approx(1, abs=0.06), name
    if heads.name == "plain":
        assert calibration(weighted=False)["ctr"] > 2.5


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, "half"])
def test_rates_outside_of_0_to_1(rate):
    with pytest.raises(ValidationError, match=r"keep\.click"):
        SamplingConfig.from_json(json.dumps({"keep": {"click": rate}}))
