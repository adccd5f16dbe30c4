import sys
from pathlib import Path

import pytest
import yaml

from models.balancing import Static
from pipeline.config import ConfigError, load
from pipeline.sweep.plan import grid_points, objectives, single_points, trial_weights, trials, tuned_point

sys.path.append(str(Path(__file__).parent))
from toy_sweep import CONFIG


@pytest.fixture
def make(tmp_path):
    def config(*overrides, **changes):
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
        return load(tmp_path / "toy.yaml", overrides=overrides)

    return config


def test_the_default_grid_is_four_models_with_four_balancers(make):
    config = make(sweep={})
    points = grid_points(config)
    assert {(p.model, p.balancer) for p in points} == {
        (m, b) for m in ("esmm", "shared_bottom", "mmoe", "ple") for b in ("static", "uncertainty", "dwa", "pcgrad")
    }
    assert all([t.training.seed for t in p.trainings] == [1, 2] for p in points)
    keys = {t.key("rows") for p in points for t in p.trainings}
    assert len(keys) == 32


def test_a_model_of_each_task_alone_is_judged_as_its_task(make):
    config = make()
    assert [o.task for o in objectives(config.tasks)] == ["ctr", "ctcvr"]
    alone = {p.balancer: p.trainings[0].tasks for p in single_points(config)}
    assert {task: [(t.name, t.label, t.joint) for t in tasks] for task, tasks in alone.items()} == {
        "ctr": [("ctr", "click", None)],
        "ctcvr": [("ctcvr", "purchase", None)],
    }


def test_weights_of_two_tasks_go_from_lowest_to_highest_by_equal_factors(make):
    weights = trial_weights(make("sweep.tuning.trials=5"))
    assert weights == [{"ctr": 1.0, "cvr": w} for w in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert trial_weights(make("sweep.tuning.trials=1")) == [{"ctr": 1.0, "cvr": 1.0}]


def test_weights_of_more_tasks_are_spread_over_the_range(make):
    logs = {**CONFIG["logs"], "events": {name: {"path": f"{name}/{{date}}"} for name in ("click", "cart", "purchase")}}
    tasks = [
        {"name": "ctr", "label": "click"},
        {"name": "cart", "label": "cart", "joint": "ctcart"},
        {"name": "cvr", "label": "purchase", "joint": "ctcvr"},
    ]
    windows = {"windows": {"click": "30m", "cart": "1d", "purchase": "1d"}}
    weights = trial_weights(make("sweep.tuning.trials=16", logs=logs, tasks=tasks, attribution=windows))
    assert len(weights) == 16 and all(w["ctr"] == 1 for w in weights)
    for task in ("cart", "cvr"):
        # Each quarter of the range, in logarithms, has its share.
        for low in (0.25, 0.5, 1.0, 2.0):
            assert 3 <= sum(low <= w[task] < 2 * low for w in weights) <= 5
    assert len({(w["cart"], w["cvr"]) for w in weights}) == 16


def test_trials_do_not_see_the_evaluation_days(make):
    found = trials(make())
    assert len(found) == 4 and all(t.training.judged_on == "last_training_day" for t in found)
    assert {t.training.training.seed for t in found} == {1}


def test_equal_weights_are_the_training_that_the_grid_has(make):
    config = make()
    static = next(p for p in grid_points(config) if (p.model, p.balancer) == ("small", "static"))
    equal = tuned_point(config, "small", {"ctr": 1.0, "cvr": 1.0})
    other = tuned_point(config, "small", {"ctr": 1.0, "cvr": 2.0})
    assert equal.trainings[0].key("rows") == static.trainings[0].key("rows") != other.trainings[0].key("rows")
    assert other.trainings[0].balancer == Static(name="static", weights={"cvr": 2.0})


def test_a_training_is_done_again_only_for_what_decides_on_it(make):
    def key(*overrides):
        return grid_points(make(*overrides))[0].trainings[0].key("rows")

    assert key() == key("training.warm_start=false", "training.checkpoint_every=5", "window.train_days=4", "name=other")
    changes = ("training.batch_size=32", "optimizer.dense_l2=0.1", "sweep.models.small.heads.tower=[5]")
    assert len({key(), *(key(change) for change in changes)}) == 4
    assert grid_points(make())[0].trainings[0].key("other rows") != key()


@pytest.mark.parametrize(
    "override, message",
    [
        ("sweep.balancers.x={name: static, weights: {buy: 2}}", "sweep.balancers.x.weights: expected names of tasks"),
        ("sweep.models={}", "sweep.models: expected at least one entry"),
        ("sweep.balancers.x={name: best}", "sweep.balancers"),
        ("sweep.tuning.lowest=5", "lowest: expected at most highest (4), got 5"),
        ("sweep.seeds=0", "sweep.seeds"),
        ("sweep.models.x={preset: best}", "preset: expected one of esmm"),
    ],
)
def test_mistakes_are_named(make, override, message):
    with pytest.raises(ConfigError) as error:
        make(override)
    assert message in str(error.value)
