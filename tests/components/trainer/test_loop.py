import json

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from components.trainer.config import TrainingConfig
from models.presets import ModelConfig
from models.section import UserError
from tests.components.trainer.toy_training import Training

MODEL = ModelConfig.from_json(
    json.dumps({"trunk": {"name": "shared_bottom", "bottom": {"units": [4]}}, "heads": {"name": "plain", "tower": []}})
)


def trained(pattern, folder, **settings):
    config = TrainingConfig(batch_size=16, probe_every=0, checkpoint_every=0, **settings)
    return Training(pattern, folder, training=config, model=MODEL).run()


def weights(training):
    return [v.numpy() for v in training.ranker.trainable_variables]


@pytest.fixture(scope="module")
def plain(pattern, tmp_path_factory):
    return trained(pattern, tmp_path_factory.mktemp("plain"), epochs=2)


def test_loop_is_what_fit_does_with_the_same_batches(plain, pattern, tmp_path):
    other = Training(pattern, tmp_path, training=plain.config, model=MODEL)
    for epoch in range(2):
        other.ranker.fit(plain.examples.epoch(epoch), verbose=0)
    for a, b in zip(weights(plain), weights(other)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert plain.record.steps == 16 and plain.ranker.dense_optimizer.iterations.numpy() == 16
    assert plain.record.seconds > 0


def test_all_devices_of_a_host_with_one_train_as_that_one(plain, pattern, tmp_path):
    mirrored = trained(pattern, tmp_path, epochs=2, strategy="mirrored")
    assert isinstance(mirrored.ranker.distribute_strategy, tf.distribute.MirroredStrategy)
    if mirrored.ranker.distribute_strategy.num_replicas_in_sync == 1:
        for a, b in zip(weights(plain), weights(mirrored)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("setting", "tolerance"), [({"xla": True}, 1e-4), ({"precision": "mixed_bfloat16"}, 0.1)])
def test_precision_and_compilation_reach_the_ranker(plain, pattern, tmp_path, setting, tolerance):
    other = trained(pattern, tmp_path, epochs=2, **setting)
    assert all(v.dtype == tf.float32 for v in other.ranker.trainable_variables)
    layer = other.ranker.trunk
    assert layer.compute_dtype == ("bfloat16" if "precision" in setting else "float32")
    for a, b in zip(weights(plain), weights(other)):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_no_rows(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "part-0")):
        pass
    with pytest.raises(UserError, match="expected at least one row in the training days, got none"):
        trained([str(tmp_path / "part-*")], tmp_path)


def test_xla_does_not_go_with_several_devices():
    with pytest.raises(ValidationError, match="expected xla: false with strategy: mirrored, got xla: true"):
        TrainingConfig(xla=True, strategy="mirrored")
