"""Each preset is what its paper says, is read from JSON, and builds for chains of two and three tasks."""

import numpy as np
import pytest
import tensorflow as tf

from models.presets import PRESETS, ModelConfig
from models.tasks import DEFAULT_TASKS, TaskConfig

THREE = (
    TaskConfig(name="ctr", label="click"),
    TaskConfig(name="cart", label="cart", joint="ctcart"),
    TaskConfig(name="cvr", label="purchase", joint="ctcvr"),
)
PARTS = {
    "esmm": ("embeddings_only", "entire_space"),
    "shared_bottom": ("shared_bottom", "plain"),
    "soft_sharing": ("soft_sharing", "plain"),
    "cross_stitch": ("cross_stitch", "plain"),
    "sluice": ("sluice", "plain"),
    "mmoe": ("mmoe", "plain"),
    "cgc": ("ple", "plain"),
    "ple": ("ple", "plain"),
    "aitm": ("aitm", "joint"),
}


def preset(name):
    return ModelConfig.model_validate_json(f'{{"preset": "{name}"}}')


@pytest.mark.parametrize("name", PARTS)
def test_a_preset_is_its_trunk_and_heads(name):
    model = preset(name)
    assert (model.trunk.name, model.heads.name) == PARTS[name]
    assert (model.trunk, model.heads, model.interaction) == PRESETS[name]


def test_what_sets_presets_of_one_kind_apart():
    assert preset("cgc").trunk.levels == 1 and preset("ple").trunk.levels == 2
    assert preset("aitm").heads.calibrator == 0.6


@pytest.mark.parametrize("name", PRESETS)
def test_written_out_it_reads_as_the_same(name):
    model = preset(name)
    assert ModelConfig.from_json(model.canonical_json()) == model


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_every_weight_learns(name):
    for tasks in (DEFAULT_TASKS, THREE):
        model = preset(name)
        trunk, heads = model.trunk.build(len(tasks), seed=1), model.heads.build(tasks, seed=2)
        x = tf.constant(np.random.default_rng(0).normal(size=(16, 8)), tf.float32)
        labels = [tf.ones([16]) for _ in tasks]
        with tf.GradientTape() as tape:
            logits = heads(trunk(x, training=True), training=True)
            total = tf.add_n(heads.task_losses(logits, labels))
        assert [a.shape for a in logits] == [[16]] * len(tasks) and np.isfinite(total)
        variables = trunk.trainable_variables + heads.trainable_variables
        assert all(g is not None for g in tape.gradient(total, variables))
        p = heads.probabilities(logits)
        assert list(p) == ["p" + n for n in [*(t.name for t in tasks), *(t.joint for t in tasks[1:])]]
        assert all(np.all((v >= 0) & (v <= 1)) for v in p.values())


def test_one_part_of_a_preset_can_be_replaced():
    model = ModelConfig.model_validate_json('{"preset": "mmoe", "heads": {"name": "entire_space"}}')
    assert (model.trunk.name, model.heads.name) == ("mmoe", "entire_space")
    assert model.trunk == PRESETS["mmoe"].trunk


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="preset: expected one of esmm, .*aitm.*, got 'esm'"):
        preset("esm")
