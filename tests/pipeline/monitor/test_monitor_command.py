"""The command on a few simulated rows, with a model that was put into the repository by hand."""

import json
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml

from components.baseline.layout import EVALUATION_STATISTICS
from components.offline_ab.document import DOCUMENT_FILE
from serving.model_repository import ModelRepository
from tests.components.toy_artifacts import statistics_of

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from small_shop import CONFIG, FIRST_RUN, NEXT_DAY, SIMULATION, files, invoke
from test_checks import judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOOSE = ("--set", "monitor.not_worse_by={auc: 1}", "--set", "monitor.calibration=100", "--set", "validation.drift={}")


class Ranker(tf.Module):
    """Cheap items are clicked, and never bought."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(self, examples):
        price = tf.io.parse_example(examples, {"price": tf.io.FixedLenFeature([], tf.float32, 10.0)})["price"]
        pctr = tf.sigmoid(-tf.math.log1p(price))
        return {"pctr": pctr, "pcvr": 0.1 * tf.ones_like(pctr), "pctcvr": 0.1 * pctr}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    simulation = {**SIMULATION, "exposures-per-day": 500, "users": 120}
    options = [str(word) for name, value in simulation.items() for word in (f"--{name}", value)]
    assert invoke("simulate", "--out", str(folder / "logs"), "--clean", *options).exit_code == 0
    config = {**CONFIG, "evidence": {"minimum_users": 20, "minimum_positives": 5}}
    (folder / "shop.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "schema.pbtxt").write_text('feature { name: "device" type: BYTES } feature { name: "price" type: FLOAT }')
    model = Ranker()
    tf.saved_model.save(model, str(folder / "saved"), signatures={"serving_default": model.serving_default})
    judged(0).write(folder)
    statistics = statistics_of({"device": [["phone"], ["web"]], "price": [[1.0], [2.0]]})
    (folder / "statistics").write_bytes(statistics.SerializeToString())
    repository = ModelRepository(folder / "models", CONFIG["serving"]["model_name"])
    window = {"first_day": "2026-01-01", "first_eval_day": FIRST_RUN, "last_day": FIRST_RUN, "data_end_ms": 0}
    version = repository.publish(
        folder / "saved",
        reason="test",
        metadata={"window": window},
        extra={DOCUMENT_FILE: folder / DOCUMENT_FILE, EVALUATION_STATISTICS: folder / "statistics"},
    )
    repository.promote(version, "test")
    return folder


def monitor(shop, *options):
    given = ["--config", shop / "shop.yaml", "--logs", shop / "logs", "--root", shop / "root"]
    given += ["--set", f"serving.repository={shop / 'models'}", "--last-day", NEXT_DAY, *options]
    return invoke("monitor", *(str(word) for word in given))


def test_exit_codes_tell_how_it_is(shop):
    before = files(shop / "models")
    fine = monitor(shop, *LOOSE)
    assert fine.exit_code == 0, fine.output
    assert "all is within its limits" in fine.output
    found = json.loads((shop / "root" / "monitor" / "monitor.json").read_text())
    assert (found["state"], found["version"], found["days"]) == ("fine", 1, [NEXT_DAY, NEXT_DAY])
    assert found["rows"] == 500 and (shop / "root" / "monitor" / "monitor.html").exists()
    drift = {c["task"]: c["now"]["value"] for c in found["checks"] if c["metric"] == "drift"}
    assert set(drift) == {"device", "price"} and drift["device"] > 0

    alert = monitor(shop, *LOOSE, "--set", "monitor.drift={device: 1e-9}", "--out", shop / "elsewhere")
    assert alert.exit_code == 3, alert.output
    assert "device: its distribution is" in alert.output
    assert json.loads((shop / "elsewhere" / "monitor.json").read_text())["alerts"] == ["device drift"]

    early = monitor(shop, "--last-day", FIRST_RUN)
    assert early.exit_code == 1 and f"was judged on days up to {FIRST_RUN}" in early.output
    assert files(shop / "models") == before
