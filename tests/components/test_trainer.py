"""The trainer's input and its record."""

import json

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.config import TrainingConfig
from components.trainer.input import count_examples, read_examples
from components.trainer.record import TrainingRecord
from models.balancing import Static
from models.features import IdFeature, NumberFeature
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.ranker import Ranker
from models.section import UserError
from models.tasks import DEFAULT_TASKS

FEATURES = (
    IdFeature(kind="id", name="item", side="item", dimension=2),
    NumberFeature(kind="number", name="row", side="item"),
)
SPEC = {
    "item": tf.io.FixedLenFeature([], tf.int64),
    "row": tf.io.FixedLenFeature([], tf.float32),
    "click": tf.io.FixedLenFeature([], tf.int64),
    "purchase": tf.io.FixedLenFeature([], tf.int64),
}
FILES, ROWS = 3, 40


class Transform:
    """Stands for the transform where only the form of its output is read."""

    def transformed_feature_spec(self):
        return dict(SPEC)


@pytest.fixture(scope="module", params=["", "GZIP"], ids=["plain", "gzip"])
def pattern(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    ending = ".gz" if request.param else ""
    for file in range(FILES):
        with tf.io.TFRecordWriter(str(folder / f"part-{file}{ending}"), request.param) as writer:
            for i in range(file * ROWS, (file + 1) * ROWS):
                values = {"item": i % 7, "click": i % 2, "purchase": i % 4 == 3}
                ints = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])) for k, v in values.items()}
                row = tf.train.Feature(float_list=tf.train.FloatList(value=[i]))
                example = tf.train.Example(features=tf.train.Features(feature={**ints, "row": row}))
                writer.write(example.SerializeToString())
    return [str(folder / "part-*")]


def read(pattern, shuffle=False, seed=1, batch_size=16):
    training = TrainingConfig(batch_size=batch_size, seed=seed, shuffle_rows=1000)
    return read_examples(pattern, Transform(), FEATURES, ["click", "purchase"], training, shuffle=shuffle)


def rows(dataset):
    return np.concatenate([features["row"] for features, _ in dataset]).tolist()


def test_batches_are_features_and_labels_in_the_order_of_the_chain(pattern):
    features, labels = next(iter(read(pattern)))
    assert set(features) == {"item", "row"} and labels.dtype == tf.float32
    i = features["row"].numpy().astype(int)
    assert labels.numpy().tolist() == [[x % 2, x % 4 == 3] for x in i]


def test_every_row_is_read_once(pattern):
    for shuffle in (False, True):
        assert sorted(rows(read(pattern, shuffle))) == list(range(FILES * ROWS))
    assert count_examples(pattern) == FILES * ROWS
    assert [len(labels) for _, labels in read(pattern)] == [16] * 7 + [8]


def test_seed_decides_the_order_which_is_new_at_every_pass(pattern):
    dataset = read(pattern, shuffle=True)
    first, second = rows(dataset), rows(dataset)
    assert first != second
    again = read(pattern, shuffle=True)
    assert [rows(again), rows(again)] == [first, second]
    assert rows(read(pattern, shuffle=True, seed=2)) != first
    assert rows(read(pattern)) == rows(read(pattern))


def train(dataset, folder, bias=0.0):
    ranker = Ranker(
        FEATURES,
        {"item": 8},
        DEFAULT_TASKS,
        ModelConfig(preset="shared_bottom"),
        Static(name="static", weights={"cvr": 2.0}),
        OptimizerConfig(),
        probe_every=5,
    )
    ranker.heads.trainable_variables[-1].assign([bias])
    ranker.compile()
    record = TrainingRecord(folder, log_every=5)
    ranker.fit(dataset, epochs=2, callbacks=[record], verbose=0)
    return record


def test_record_tells_losses_weights_and_how_the_gradients_lie(pattern, tmp_path):
    record = train(read(pattern), tmp_path)
    record.warm_start = "none"
    record.write()
    written = json.loads((tmp_path / "training.json").read_text())
    assert written["steps"] == 16 and [w["step"] for w in written["windows"]] == [0, 5, 10, 15]
    assert written["gradient_probes"] == 4
    assert 0 <= written["conflict_rate"]["ctr_cvr"] <= 1
    for window in written["windows"]:
        assert (window["weight_ctr"], window["weight_cvr"]) == (1.0, 2.0)
        assert window["gradient_norm_ctr"] > 0 and window["loss_ctr"] > 0
        assert -1 - 1e-6 <= window["cosine_ctr_cvr"] <= 1 + 1e-6
    conflicts = sum(w["cosine_ctr_cvr"] < 0 for w in written["windows"])
    assert written["conflict_rate"]["ctr_cvr"] == conflicts / 4


def test_record_writes_tensorboard_events(pattern, tmp_path):
    train(read(pattern), tmp_path).write()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    seen = set()
    for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        seen |= {(event.step, value.tag) for value in event.summary.value}
    assert {(5, "loss_ctr"), (5, "weight_cvr"), (5, "gradient_norm_ctr"), (5, "cosine_ctr_cvr")} <= seen


def test_divergence_stops_training_with_a_word_of_what_may_help(pattern, tmp_path):
    with pytest.raises(UserError, match=r"training diverged: loss_cvr is nan at step 0; .*learning_rate.*may help"):
        train(read(pattern), tmp_path, bias=float("nan"))
