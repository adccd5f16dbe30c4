"""The command, on rows that a model served, beside an exposure log of the same rows."""

import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from serving.model_repository import ModelRepository
from serving.served_log import Served, ServedLog, table

DAY = "2026-01-04"
TIME = int(datetime(2026, 1, 4, 12, tzinfo=timezone.utc).timestamp() * 1000)
CONFIG = {
    "name": "shop",
    "logs": {
        "root": "logs",
        "exposures": {
            "path": "exposures/{date}/*.parquet",
            "columns": {"request_id": "request", "item_id": "product", "user_id": "customer", "time": "shown_at"},
        },
        "events": {"click": {"path": "clicks/{date}/*.parquet"}, "purchase": {"path": "orders/{date}/*.parquet"}},
    },
    "window": {"train_days": 1},
    "features": [
        {"name": "user", "kind": "id", "column": "customer", "side": "user", "dimension": 4},
        {"name": "item", "kind": "id", "column": "product", "side": "item", "dimension": 4},
        {"name": "viewed", "kind": "id_list", "side": "user", "dimension": 4, "max_length": 3},
        {"name": "price", "kind": "number", "side": "item"},
        {"name": "band", "kind": "bucketed", "column": "price", "side": "item", "dimension": 4, "quantiles": 3},
    ],
    "tasks": [{"name": "ctr", "label": "click"}, {"name": "cvr", "label": "purchase", "joint": "ctcvr"}],
    "model": {"trunk": {"name": "shared_bottom", "bottom": {"units": [4]}}, "heads": {"name": "entire_space"}},
    "validation": {"schema": "schema.pbtxt"},
    "serving": {"model_name": "shop"},
}
COLUMNS = {"user": "customer", "item": "product", "band": "price"}


class Ranker(tf.Module):
    """Cheap items, and those whose buyers looked at many, are clicked."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(self, examples):
        spec = {"price": tf.io.FixedLenFeature([], tf.float32, 0.0), "viewed": tf.io.RaggedFeature(tf.string)}
        found = tf.io.parse_example(examples, spec)
        pctr = tf.sigmoid(tf.cast(found["viewed"].row_lengths(), tf.float32) - found["price"])
        return {"pctr": pctr, "pcvr": 0.1 * tf.ones_like(pctr), "pctcvr": 0.1 * pctr}


def requests(rows=40):
    """Requests of two candidates each: as features by name, with what the ranker says by hand."""
    rng = np.random.default_rng(0)
    for i in range(rows // 2):
        price = rng.uniform(0, 5, 2).astype(np.float32)
        viewed = [f"p{n}" for n in range(i % 4)]
        pctr = 1 / (1 + np.exp(price.astype(np.float64) - len(viewed)))
        scores = {"pctr": pctr, "pcvr": np.full(2, 0.1), "pctcvr": 0.1 * pctr, "order": np.argsort(-pctr)}
        inputs = {
            "user": [b"u%d" % i],
            "item": [b"a", b"b"],
            "viewed": [[v.encode() for v in viewed] or [b""]],
            "price": price,
            "band": price,
        }
        yield f"r{i}", inputs, scores


def exposures(change):
    """The same rows as another system logs them; `change` is made to each row."""
    rows = []
    for request, inputs, _ in requests():
        for item, price in zip(("a", "b"), inputs["price"]):
            viewed = [v.decode() for v in inputs["viewed"][0] if v]
            row = {"request": request, "product": item, "customer": inputs["user"][0].decode(), "shown_at": TIME}
            rows.append(change({**row, "viewed": viewed, "price": float(price)}))
    # Shown, and not served by this model.
    return [*rows, {**rows[0], "request": "other"}]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A repository whose version 2 serves, and the log of what it served."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    model = Ranker()
    tf.saved_model.save(model, str(folder / "saved"), signatures={"serving_default": model.serving_default})
    repository = ModelRepository(folder / "run" / "models", "shop")
    for source in ("first", "second"):
        repository.promote(repository.publish(folder / "saved", reason="", source=source), "")
    parts = [table(Served(2, "rank", inputs, scores, r, COLUMNS, TIME)) for r, inputs, scores in requests()]
    (folder / "served" / DAY).mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), folder / "served" / DAY / "12-a.parquet")
    return folder


def write(folder, rows, day=DAY):
    path = folder / "exposures" / day
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "a.parquet")
    return folder


def call(shop, out, logs, *more, served=None):
    place = ["--config", shop / "shop.yaml", "--root", shop / "run", "--served", served or shop / "served"]
    result = CliRunner().invoke(app, [str(a) for a in ["skew", *place, "--logs", logs, "--out", out, *more]])
    document = json.loads((out / "skew.json").read_text()) if (out / "skew.json").exists() else None
    return result, document


def test_a_log_that_does_not_tell_versions_is_refused(shop, tmp_path):
    """As of a client that asked by REST."""
    parts = [table(Served(None, "rank", inputs, scores, r, COLUMNS, TIME)) for r, inputs, scores in requests()]
    served = tmp_path / "served" / DAY
    served.mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), served / "12-a.parquet")
    logs = write(tmp_path, exposures(lambda row: row))
    result, _ = call(shop, tmp_path / "skew", logs, served=tmp_path / "served")
    assert result.exit_code == 1
    assert "do not tell which version served them, since REST does not" in result.output


def test_the_same_features_give_no_skew(shop, tmp_path):
    result, found = call(shop, tmp_path / "skew", write(tmp_path, exposures(lambda row: row)))
    assert result.exit_code == 0, result.output
    assert "no skew" in result.output and found["found"] == []
    assert (found["served"], found["compared"], found["versions"]) == (40, 40, {"2": 40})
    assert {f["name"] for f in found["features"]} == {"user", "item", "viewed", "price", "band"}
    assert max(s["largest"] for s in found["replayed"] + found["training"]) < 1e-6
    assert "Serving and training see the same" in (tmp_path / "skew" / "skew.html").read_text()


def test_a_changed_feature_is_found_and_named(shop, tmp_path):
    logs = write(
        tmp_path, exposures(lambda row: {**row, "price": row["price"] * (1.1 if row["product"] == "a" else 1)})
    )
    result, found = call(shop, tmp_path / "skew", logs)
    assert result.exit_code == 3, result.output
    changed = [f for f in found["features"] if f["rows"]]
    assert [f["name"] for f in changed] == ["band", "price"]
    prices = np.concatenate([inputs["price"] for _, inputs, _ in requests()])
    for f in changed:
        assert (f["rows"], f["share"]) == (20, 0.5)
        assert f["mean"] == pytest.approx(0.1 * prices[::2].sum() / 40, rel=1e-5)
    # What was served is what the model gives for what it was sent; training's price gives another score.
    assert max(s["largest"] for s in found["replayed"]) < 1e-6
    pctr = next(s for s in found["training"] if s["output"] == "pctr")
    sigmoid = [1 / (1 + np.exp(p * f - n)) for f in (1, 1.1) for n, p in zip(np.arange(20) % 4, prices[::2])]
    assert pctr["largest"] == pytest.approx(np.abs(np.subtract(sigmoid[:20], sigmoid[20:])).max(), rel=1e-3)
    assert "feature 'price' differs in 20 rows (50.00%)" in result.output
    assert "feature &#39;price&#39; differs in 20 rows" in (tmp_path / "skew" / "skew.html").read_text()


def test_a_feature_may_differ_on_purpose_and_some_rows_may_differ(shop, tmp_path):
    logs = write(
        tmp_path, exposures(lambda row: {**row, "viewed": row["viewed"] if row["request"] != "r1" else ["x"] * 3})
    )
    assert call(shop, tmp_path / "a", logs)[0].exit_code == 3
    result, found = call(shop, tmp_path / "b", logs, "--set", "skew.as_served=[viewed]")
    assert result.exit_code == 0 and "viewed" not in {f["name"] for f in found["features"]}
    assert call(shop, tmp_path / "c", logs, "--set", "skew.rows=0.05")[0].exit_code == 0
    result, _ = call(shop, tmp_path / "d", logs, "--set", "skew.as_served=[view]")
    assert result.exit_code == 1 and "skew.as_served: expected names of features, got 'view'" in result.output


def test_scores_that_the_model_does_not_give_are_told_apart(shop, tmp_path):
    rows = pq.read_table(shop / "served" / DAY / "12-a.parquet")
    wrong = rows.column("served_pctr").to_numpy() + np.float32(0.01)
    rows = rows.set_column(rows.column_names.index("served_pctr"), "served_pctr", pa.array(wrong))
    (tmp_path / "served" / DAY).mkdir(parents=True)
    pq.write_table(rows, tmp_path / "served" / DAY / "12-a.parquet")
    logs = write(tmp_path, exposures(lambda row: row))
    result, found = call(shop, tmp_path / "skew", logs, served=tmp_path / "served")
    assert result.exit_code == 3 and all(f["rows"] == 0 for f in found["features"])
    assert found["replayed"][0]["mean"] == pytest.approx(0.01, rel=1e-3)
    assert "served pctr is not what the model gives for the served features: 40 rows (100.00%)" in result.output


def test_what_cannot_be_compared_is_told(shop, tmp_path):
    other = write(tmp_path / "other", exposures(lambda row: {**row, "request": "x" + row["request"]}))
    result, _ = call(shop, tmp_path / "skew", other)
    assert result.exit_code == 1
    assert "none of the 40 served rows from 2026-01-04 to 2026-01-04 is among the exposures" in result.output
    late = write(tmp_path / "late", exposures(lambda row: row), "2026-02-01")
    result, _ = call(shop, tmp_path / "skew", late)
    assert result.exit_code == 1 and "no exposures from 2026-01-04 to 2026-01-04" in result.output
    result, _ = call(shop, tmp_path / "skew", late, served=tmp_path)
    assert result.exit_code == 1 and "expected files of a log of what is served" in result.output


def test_the_log_of_what_is_served_is_an_exposure_log(shop, tmp_path):
    """`seesaw check` reads it as it is: with the columns of the configuration, and rejects nothing."""
    with ServedLog(tmp_path / "served" / "exposures", columns=COLUMNS) as log:
        for request, inputs, scores in requests():
            log.add(2, "rank", inputs, scores, request)
    (day,) = {f.parent for f in (tmp_path / "served" / "exposures").glob("*/*.parquet")}
    # The same rows at noon of two days: late in the evening they would not be mature.
    (file,) = day.glob("*.parquet")
    rows = pq.read_table(file)
    noon = datetime.fromisoformat(f"{day.name}T12:00+00:00")
    before = day.parent / (noon - timedelta(days=1)).strftime("%Y-%m-%d")
    before.mkdir()
    for place, at in ((file, noon), (before / "00-a.parquet", noon - timedelta(days=1))):
        times = pa.array([int(at.timestamp() * 1000)] * len(rows))
        pq.write_table(rows.set_column(rows.column_names.index("time"), "time", times), place)
    clicks = pa.table({"request_id": ["r1"], "item_id": ["a"], "time": [times[0].as_py()]})
    for event in ("clicks", "orders"):
        for of in (day, before):
            (tmp_path / "served" / event / of.name).mkdir(parents=True)
            pq.write_table(clicks, tmp_path / "served" / event / of.name / "a.parquet")
    columns = "{item_id: product, user_id: customer}"
    options = [
        *("check", "--config", shop / "shop.yaml", "--logs", tmp_path / "served", "--last-day", day.name),
        *("--set", f"logs.exposures.columns={columns}", "--set", "attribution.windows={click: 30m, purchase: 30m}"),
    ]
    result = CliRunner().invoke(app, [str(a) for a in options])
    lines = [line.split() for line in result.output.splitlines()]
    (row,) = (line for line in lines if line[:1] == ["exposures"])
    assert row[1:3] == ["80", "80"], result.output  # rows, and joined
