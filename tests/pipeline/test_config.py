from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config import ConfigError, json_schema, load

CONFIGS = Path(__file__).resolve().parents[2] / "pipeline" / "configs"

CONFIG = {
    "name": "shop",
    "logs": {
        "exposures": {"path": "exposures/{date}/*"},
        "events": {"click": {"path": "clicks/{date}/*"}, "purchase": {"path": "purchases/{date}/*"}},
    },
    "window": {"train_days": 1},
    "features": [{"name": "device", "kind": "id", "side": "context"}],
    "model": {"preset": "esmm"},
    "validation": {"schema": "schema.pbtxt"},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", ".1e-2", "1.0e-3", "+1e-3", "0.001"])
def test_numbers_with_an_exponent(file, number):
    assert load(file, overrides=(f"optimizer.dense.learning_rate={number}",)).optimizer.dense.learning_rate == 0.001
    file.write_text(yaml.safe_dump(CONFIG) + f"optimizer: {{dense: {{learning_rate: {number}}}}}\n")
    assert load(file).optimizer.dense.learning_rate == 0.001


@pytest.mark.parametrize("text", ["'1e-3'", "1e-3x", "e3", "1e"])
def test_text_is_no_number(file, text):
    with pytest.raises(ConfigError, match="optimizer.dense.learning_rate: expected a valid number, got"):
        load(file, overrides=(f"optimizer.dense.learning_rate={text}",))


MISTAKES = {
    "unknown key": ("training.epoch=2", r"training\.epoch: unknown key, expected one of epochs, batch_size, seed"),
    "unknown section": ("trainer.epochs=2", r"trainer: unknown key, expected one of name, logs, attribution"),
    "unknown key of a kind": (
        "features.0.scaling=none",
        r"features\[0\]\.scaling: unknown key, .* vocabulary, hash_buckets",
    ),
    "unknown key of a log": (
        "logs.events.click.colums={}",
        r"logs\.events\.click\.colums: .* path, .*format, time_unit, columns",
    ),
    "wrong type": ("training.epochs=two", r"training\.epochs: expected a valid integer, got \"two\""),
    "number as text": ("training.batch_size='512'", r"training\.batch_size: expected a valid integer, got \"512\""),
    "evidence on no column": (
        "evidence={price: cost}",
        r"evidence: expected column 'cost' among the features or in logs\.exposures\.extra, found it in neither",
    ),
    "rule on no task": (
        "evidence={rules: [{task: buy, metric: auc, better_by: 0}]}",
        r"evidence\.rules\[0\]\.task: expected one of ctr, cvr, ctcvr, got 'buy'",
    ),
    "rule of two kinds": (
        "evidence={rules: [{task: ctr, metric: auc, better_by: 0, not_worse_by: 0.1}]}",
        r"evidence\.rules\[0\]: expected exactly one of better_by and not_worse_by",
    ),
    "rule on no slice": (
        "evidence={rules: [{task: ctr, metric: auc, better_by: 0, slice: {tab: a}}]}",
        r"evidence\.rules\[0\]\.slice: expected the columns of one of evaluation\.slices \(none\), got tab",
    ),
    "out of range": ("training.batch_size=0", r"training\.batch_size: expected greater than 0, got 0"),
    "no such kind": ("features.0.kind=word", r"features\[0\]\.kind: expected one of .*'id_list'.*, got 'word'"),
    "no such trunk": (
        "model.trunk={name: tree}",
        r"model\.trunk\.name: expected one of .*'shared_bottom'.*, got 'tree'",
    ),
    "no such preset": ("model.preset=dlrm", r"model: preset: expected one of esmm, shared_bottom, .*got 'dlrm'"),
    "no such balancer": ("balancer.name=coin", r"balancer\.name: expected one of .*'uncertainty'.*, got 'coin'"),
    "weights of no task": ("balancer={name: static, weights: {buy: 2}}", r"balancer\.weights: expected names of tasks"),
    "exponent of no task": ("balancer={name: htw, main_task: buy}", r"balancer\.main_task: expected .*'buy'"),
    "tower of no task": (
        "model.heads={name: plain, towers: {buy: [4]}}",
        r"model\.heads\.towers: expected names of tasks, among ctr, cvr, got 'buy'",
    ),
    "compiled on several devices": (
        "training={xla: true, strategy: mirrored}",
        r"training: xla and strategy: expected xla: false with strategy: mirrored, got xla: true",
    ),
    "no such strategy": (
        "training.strategy=tpu",
        r"training\.strategy: expected one of 'none', 'mirrored' or 'multi_worker', got",
    ),
    "not a duration": (
        "attribution.windows.click=soon",
        r"attribution\.windows\.click: expected a duration .*got \"soon\"",
    ),
    "window of no event": (
        "attribution.windows={click: 1h}",
        r"attribution\.windows: expected a window for each event",
    ),
    "touch of no event": (
        "attribution={windows: {click: 1h, purchase: 1d}, touch: {buy: last_touch}}",
        r"attribution: touch: expected events among click, purchase, got 'buy'",
    ),
    "no such touch": ("attribution.touch.click=any", r"attribution\.touch\.click: expected one of 'last_touch' or"),
    "no key of an event": (
        "logs.events.purchase.columns={request_id: null}",
        r"logs\.events\.purchase\.columns: expected either request_id, or .*got request_id: null and user_id: null",
    ),
    "joined days of less than a window": (
        "join.keep_days=1",
        r"join\.keep_days: expected at least the \d+ days of the window \(train_days \+ eval_days\), got 1",
    ),
    "no memory": ("join.memory_gib=0", r"join\.memory_gib: .*greater than 0, got 0"),
    "sample of no event": (
        "sampling.keep={order: 0.5}",
        r"sampling\.keep: expected events of logs\.events \(click, purchase\), got 'order'",
    ),
    "sample of nothing": ("sampling.keep.click=0", r"sampling\.keep\.click: .*greater than 0, got 0"),
    "feature named as a count": (
        "features.0={name: click_count, kind: number, side: user}",
        r"features: 'click_count' is the name of a label or key",
    ),
    "feature named as the weight": (
        "features.0={name: weight, kind: number, side: user}",
        r"features: 'weight' is the name of a label or key",
    ),
    "tasks beside the events": (
        "tasks=[{name: ctr, label: click}, {name: cvr, label: order, joint: ctcvr}]",
        r"tasks: expected one task per event .*, in that order \(click, purchase\), got labels click, order",
    ),
    "a chain of one": ("tasks=[{name: ctr, label: click}]", r"tasks: expected a chain of at least 2 tasks, got 1"),
    "path without a day": (
        "logs.exposures.path=exposures/*.csv",
        r"logs\.exposures\.path: expected '\{date\}'",
    ),
    "unknown zone": ("logs.timezone=Mars/Olympus", r"timezone: expected a name such as .*, got 'Mars/Olympus'"),
    "not a day": ("window.last_day=yesterday", r"window\.last_day"),
    "repeated feature": (
        "features=[{name: a, kind: id, side: user}, {name: a, kind: number, side: user}]",
        r"features: feature 'a' is listed twice",
    ),
    "shares nothing": (
        "features.1={name: history, kind: id_list, side: user, max_length: 3, shares: item}",
        r"features: feature 'history' shares 'item', expected the name of an id",
    ),
    "two ways to rows": (
        "features.0={name: a, kind: id, side: user, hash_buckets: 5, shares: b}",
        r"features\[0\]: expected at most one of vocabulary, hash_buckets and shares, got hash_buckets, shares",
    ),
    "no way to cut": (
        "features.0={name: a, kind: bucketed, side: user}",
        r"expected exactly one of boundaries and quantiles",
    ),
    "feature named as a label": (
        "features.0={name: click, kind: id, side: user}",
        r"features: 'click' is the name of a label or key",
    ),
    "gate on no task": (
        "gates=[{task: cpr, metric: auc, at_least: 0.5}]",
        r"gates\[0\]\.task: expected one of ctr, cvr, ctcvr",
    ),
    "two gates on one metric": (
        "gates=[{task: ctr, metric: auc, at_least: 0.5}, {task: ctr, metric: auc, not_worse_by: 0.1}]",
        r"gates\[1\]: ctr auc has a gate already",
    ),
    "slice by no feature": ("evaluation.slices=[[tab]]", r"evaluation\.slices: expected names of features, got 'tab'"),
    "drift of no feature": ("validation.drift={tab: 0.1}", r"validation\.drift: expected names of features, got 'tab'"),
}


def test_weights_are_not_held_on_several_devices(file):
    overrides = ("training.strategy=mirrored", "balancer={name: pcgrad, refresh_every: 5}")
    message = r"balancer\.refresh_every: expected 1 with training.strategy: mirrored at level parameters, got 5"
    with pytest.raises(ConfigError, match=message):
        load(file, overrides=overrides)
    load(file, overrides=(*overrides, "balancer.level=representation"))


@pytest.mark.parametrize(("override", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_name_the_key_what_was_expected_and_what_came(file, override, message):
    raw = yaml.safe_load(file.read_text())
    if override.startswith("features.1="):
        raw["features"].append({"name": "b", "kind": "id", "side": "user"})
        file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=message) as caught:
        load(file, overrides=(override,))
    assert str(file) in str(caught.value)


def test_slices_are_by_features_of_one_value(file):
    history = "features.0={name: history, kind: id_list, side: user, max_length: 3}"
    with pytest.raises(ConfigError, match=r"expected features of one value, 'history' is an id_list"):
        load(file, overrides=(history, "evaluation={slices: [[history]]}"))


def test_all_mistakes_are_told_at_once(file):
    with pytest.raises(ConfigError, match="2 mistake") as caught:
        load(file, overrides=("training.epochs=0", "optimizer.clip_norm=-1"))
    assert "training.epochs" in str(caught.value) and "optimizer.clip_norm" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a list", "expected a mapping of sections, got list"), ("a: [1", "not valid YAML"), ("", "expected a mapping")],
)
def test_a_file_that_is_no_configuration(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c.yaml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "c.yaml")


def test_paths_are_relative_to_the_file_and_logs_to_the_working_directory(file, monkeypatch, tmp_path):
    config = load(file)
    assert config.logs.root == str(tmp_path.resolve()) and config.validation.schema_path == str(
        tmp_path / "schema.pbtxt"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(file, logs="here").logs.root == str(tmp_path / "elsewhere" / "here")


def test_configuration_is_frozen(file):
    with pytest.raises(ValueError, match="frozen"):
        load(file).training.epochs = 3


def test_a_preset_can_be_changed_part_by_part(file):
    config = load(file, overrides=("model.heads={name: plain, tower: [8]}",))
    assert config.model.trunk.name == "embeddings_only"
    assert (config.model.heads.name, config.model.heads.tower) == ("plain", (8,))


def test_schema_accepts_the_shipped_configurations():
    for name in ("demo", "kuairand"):
        raw = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        jsonschema.validate(json.loads(json.dumps(raw, default=str)), json_schema())
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(raw | {"modell": {}}, json_schema())
