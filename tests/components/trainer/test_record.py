import json

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.config import TrainingConfig
from components.trainer.record import TrainingRecord
from models.balancing import Static
from models.presets import ModelConfig
from tests.components.trainer.toy_training import Training

CONFIG = TrainingConfig(batch_size=16, epochs=2, probe_every=5)
STATIC = Static(name="static", weights={"cvr": 2.0})


def small(trunk, **settings):
    trunk = {"name": trunk, **settings}
    return ModelConfig.from_json(json.dumps({"trunk": trunk, "heads": {"name": "plain", "tower": [4]}}))


@pytest.fixture(scope="module")
def trained(pattern, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    model = small("mmoe", experts=3, expert={"units": [4]})
    training = Training(pattern, folder, training=CONFIG, model=model, balancer=STATIC)
    training.record.warm_start = "none"
    training.run()
    training.record.write()
    return training, json.loads((folder / "training.json").read_text())


def test_record_tells_losses_weights_and_how_the_gradients_lie(trained):
    _, written = trained
    assert written["steps"] == 16 and [w["step"] for w in written["windows"]] == [0, 5, 10, 15]
    assert written["gradient_probes"] == 4 and written["tasks"] == ["ctr", "cvr"]
    for window in written["windows"]:
        assert (window["weight_ctr"], window["weight_cvr"]) == (1.0, 2.0)
        assert window["gradient_norm_ctr"] > 0 and window["loss_ctr"] > 0
        assert -1 - 1e-6 <= window["cosine_ctr_cvr"] <= 1 + 1e-6
        assert (window["left_out_ctr"], window["left_out_cvr"]) == (0, 0)
    cosines = [w["cosine_ctr_cvr"] for w in written["windows"]]
    for i, window in enumerate(written["windows"]):
        assert window["conflict_rate_ctr_cvr"] == pytest.approx(np.mean(np.array(cosines[: i + 1]) < 0))
    rate = {"ctr_cvr": pytest.approx(np.mean(np.array(cosines) < 0))}
    assert written["conflict_rate"] == rate
    assert written["summary"] == {
        "weights": {"ctr": 1.0, "cvr": 2.0},
        "mean_cosine": {"ctr_cvr": pytest.approx(np.mean(cosines))},
        "conflict_rate": rate,
    }
    assert written["left_out"] == {"ctr": 0, "cvr": 0}


def test_record_tells_the_use_of_experts(trained):
    _, written = trained
    assert len(written["gates"]) == 2
    for gate, found in written["gates"].items():
        assert len(found["use"]) == 3 and sum(found["use"]) == pytest.approx(1, abs=1e-5)
        assert 0 <= found["entropy"] <= np.log(3) + 1e-6
        last = written["windows"][-1]
        assert [last[f"gate_{gate}_{e}"] for e in range(3)] == found["use"]
        assert last[f"gate_entropy_{gate}"] == found["entropy"]


def test_record_writes_tensorboard_events_of_every_window(trained):
    training, written = trained
    assert scalars(training.record.folder) == {
        (w["step"], name): pytest.approx(value, rel=1e-6)
        for w in written["windows"] for name, value in w.items() if name != "step"
    }  # fmt: skip


def test_a_restored_record_has_the_windows_in_its_own_events(trained, tmp_path):
    training, _ = trained
    again = TrainingRecord(tmp_path, training.ranker, log_every=5)
    again.restore(json.loads(json.dumps(training.record.state())))
    assert again.state() == {**training.record.state(), "resumed_at": [16]}
    again.write()
    assert scalars(tmp_path) == scalars(training.record.folder)


def scalars(folder):
    (events,) = folder.glob("events.out.tfevents.*")
    found = {}
    for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        found |= {(event.step, v.tag): float(tf.make_ndarray(v.tensor)) for v in event.summary.value}
    return found


def test_picture_is_drawn(trained):
    training, _ = trained
    picture = tf.io.decode_png((training.record.folder / "training.png").read_bytes()).numpy()
    assert picture.shape[0] > 800 and picture.shape[1] > 1200 and picture.std() > 0


class Ranker:
    """Losses that are the number of the step."""

    def __init__(self):
        self.tasks = ()
        self.loss_means = [tf.keras.metrics.Mean(name="loss_ctr")]
        self.task_weights = self.left_out = tf.zeros([0])
        self.probes = tf.constant(0.0)
        self.conflicts = tf.zeros([0, 0])
        self.gate_use = self.gate_entropy = {}


def test_losses_are_means_over_the_window(tmp_path):
    ranker = Ranker()
    record = TrainingRecord(tmp_path, ranker, log_every=4)
    for step in range(10):
        ranker.loss_means[0].update_state(float(step))
        record.after_step()
    # Steps 0; 1 to 4; 5 to 8.
    assert [(w["step"], w["loss_ctr"]) for w in record.windows] == [(0, 0.0), (4, 2.5), (8, 6.5)]


def test_nothing_is_said_of_gradients_that_were_never_looked_at(pattern, tmp_path):
    config = TrainingConfig(batch_size=64, probe_every=0)
    training = Training(pattern, tmp_path, training=config, model=small("shared_bottom", bottom={"units": [4]})).run()
    training.record.write()
    written = json.loads((tmp_path / "training.json").read_text())
    assert not any(name.startswith(("cosine", "gradient_norm", "conflict")) for name in written["windows"][0])
    assert written["summary"]["mean_cosine"] == written["conflict_rate"] == {"ctr_cvr": None}
