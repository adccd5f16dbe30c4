import json

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from sklearn import metrics as reference
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.evaluator import EvaluationConfig, Evaluator, Gate, build_eval_config, explain_validation, read_summary
from components.evaluator.executor import Executor, why_not_compared, without_change
from components.evaluator.results import comparison
from models.tasks import DEFAULT_TASKS
from tests.components.toy_artifacts import artifact, baseline_artifact, model_artifact, write_examples

ROWS = 600
MORE = ("normalised_entropy", "gauc")


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(7)
    x, z = rng.normal(size=(2, ROWS)).astype(np.float32)
    click = (rng.random(ROWS) < sigmoid(2 * x)).astype(np.int64)
    purchase = click * (rng.random(ROWS) < sigmoid(2 * z)).astype(np.int64)
    users = np.array([f"u{u}" for u in rng.integers(0, 60, ROWS)])
    tabs = rng.choice(["a", "b"], ROWS)
    return {"x": x, "z": z, "tab": tabs, "user_id": users, "click": click, "purchase": purchase}


def evaluate(folder, columns, slope, baseline, gates, slices=(), more=()):
    outputs = {
        "evaluation": [artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")],
        "blessing": [artifact(standard_artifacts.ModelBlessing, folder / "blessing")],
    }
    config = build_eval_config(DEFAULT_TASKS, EvaluationConfig(slices=slices, more_metrics=more), gates)
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(folder / "tmp"), unique_id="1")
    Executor(context).Do(
        {
            "examples": [write_examples(folder / "examples", columns)],
            "model": [model_artifact(folder / "model", slope)],
            "baseline_model": [baseline],
        },
        outputs,
        {
            "eval_config": proto_utils.proto_to_json(config),
            "example_splits": json.dumps(["eval"]),
            "fairness_indicator_thresholds": "null",
            "code_fingerprint": "",
        },
    )
    blessed = (folder / "blessing" / "BLESSED").exists()
    assert blessed != (folder / "blessing" / "NOT_BLESSED").exists()
    return str(folder / "evaluation"), blessed


@pytest.fixture(scope="module")
def first(tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("first")
    gates = (
        Gate(task="ctr", metric="auc", at_least=0.7, not_worse_by=0.0),
        Gate(task="cvr", metric="calibration", at_most=0.1),
    )
    return evaluate(folder, columns, 1.0, baseline_artifact(folder / "baseline"), gates, slices=(("tab",),), more=MORE)


@pytest.fixture(scope="module")
def second(tmp_path_factory, columns):
    """A candidate with the scores of the model in service, but the other way round."""
    folder = tmp_path_factory.mktemp("second")
    gates = (
        Gate(task="ctr", metric="auc", at_least=0.0, not_worse_by=0.01),
        Gate(task="ctcvr", metric="log_loss", not_worse_by=10.0),
    )
    return evaluate(folder, columns, -1.0, baseline_artifact(folder / "baseline", version=3), gates)


def expected_metrics(columns, slope, keep=slice(None)):
    pctr, pcvr = sigmoid(slope * columns["x"]), sigmoid(slope * columns["z"])
    clicked = columns["click"][keep] == 1
    rows = {"ctr": ("click", pctr[keep]), "cvr": ("purchase", pcvr[keep]), "ctcvr": ("purchase", (pctr * pcvr)[keep])}
    for task, (label, score) in rows.items():
        y, p = columns[label][keep], score
        if task == "cvr":
            y, p = y[clicked], p[clicked]
        yield (
            task,
            {
                "rows": len(y),
                "base_rate": y.mean(),
                "auc": reference.roc_auc_score(y, p),
                "log_loss": reference.log_loss(y, p),
                "calibration": p.mean() / y.mean(),
            },
        )


def assert_metrics(rows, expected):
    expected = dict(expected)
    assert [row.task for row in rows] == list(expected) == ["ctr", "cvr", "ctcvr"]
    for row in rows:
        for name, value in expected[row.task].items():
            # TFMA cuts scores at 10,000 thresholds.
            assert getattr(row, name) == pytest.approx(value, abs=1e-3 if name == "auc" else 1e-5), (row.task, name)


def test_metrics_are_scikit_learns_with_cvr_on_clicked_rows(first, columns):
    uri, _ = first
    assert_metrics(read_summary(uri), expected_metrics(columns, 1.0))


def test_metrics_by_slice(first, columns):
    uri, _ = first
    rows = read_summary(uri, by_slice=True)
    assert [row.slice for row in rows] == [()] * 3 + [(("tab", "a"),)] * 3 + [(("tab", "b"),)] * 3
    assert_metrics(rows[3:6], expected_metrics(columns, 1.0, columns["tab"] == "a"))


def test_more_metrics_are_those_of_the_rows(first, columns):
    uri, _ = first
    by_slice = dict(tfma.load_eval_result(uri).slicing_metrics)
    clicked = columns["click"] == 1
    pctr, pcvr = sigmoid(columns["x"]), sigmoid(columns["z"])
    for output, label, score, rows in (
        ("pctr", "click", pctr, np.ones(ROWS, bool)),
        ("pcvr", "purchase", pcvr, clicked),
        ("pctcvr", "purchase", pctr * pcvr, np.ones(ROWS, bool)),
    ):
        for where, of in (((), rows), ((("tab", "a"),), rows & (columns["tab"] == "a"))):
            y, p, users = columns[label][of], score[of], columns["user_id"][of]
            found = {name: v["doubleValue"] for name, v in by_slice[where][output][""].items() if name in MORE}
            always = reference.log_loss(y, np.full(len(y), y.mean()))
            assert found["normalised_entropy"] == pytest.approx(reference.log_loss(y, p) / always, abs=1e-5)
            both = [u for u in np.unique(users) if 0 < y[users == u].mean() < 1]
            aucs = [reference.roc_auc_score(y[users == u], p[users == u]) for u in both]
            expected = np.average(aucs, weights=[(users == u).sum() for u in both])
            assert found["gauc"] == pytest.approx(expected, abs=1e-6), (output, where)


def test_first_run_is_judged_by_floors_alone(first, columns):
    uri, blessed = first
    assert comparison(uri) == {"baseline": None, "not_compared": "no model is in service"}
    assert read_summary(uri, model="baseline") == []
    assert not blessed
    calibration = dict(expected_metrics(columns, 1.0))["cvr"]["calibration"]
    (reason,) = explain_validation(uri)
    assert reason.startswith("cvr calibration: expected at most 0.1, found ")
    assert float(reason.split()[-1]) == pytest.approx(calibration, abs=1e-4)


def test_candidate_is_compared_with_the_model_in_service(second, columns):
    uri, blessed = second
    assert comparison(uri) == {"baseline": 3, "not_compared": None}
    assert_metrics(read_summary(uri), expected_metrics(columns, -1.0))
    assert_metrics(read_summary(uri, model="baseline"), expected_metrics(columns, 1.0))
    assert not blessed
    (reason,) = explain_validation(uri)
    assert reason.startswith("ctr auc: expected not worse than the model in service by more than 0.01, found a diff")
    auc = dict(expected_metrics(columns, 1.0))["ctr"]["auc"]
    assert float(reason.split()[-1]) == pytest.approx((1 - auc) - auc, abs=2e-3)


def test_equal_candidate_is_not_worse(tmp_path, columns):
    few = {name: values[:200] for name, values in columns.items()}
    gates = (Gate(task="ctr", metric="auc", not_worse_by=0.0), Gate(task="ctr", metric="log_loss", not_worse_by=0.0))
    uri, blessed = evaluate(tmp_path, few, 1.0, baseline_artifact(tmp_path / "baseline", version=1), gates)
    assert blessed
    assert explain_validation(uri) == []


def test_baseline_that_lacks_an_output_is_not_compared(tmp_path):
    config = build_eval_config(DEFAULT_TASKS, EvaluationConfig(), ())
    two = baseline_artifact(tmp_path / "two", version=4, outputs=("pctr", "pcvr"))
    assert why_not_compared(two.uri, config) == "the model in service (version 4) has no output pctcvr"
    three = baseline_artifact(tmp_path / "three", version=4)
    assert why_not_compared(three.uri, config) is None


def gated(config):
    return {
        (spec.output_names[0], metric.class_name): rule.threshold
        for spec in config.metrics_specs
        for metric in spec.metrics
        for rule in metric.per_slice_thresholds
    }


def test_outputs_labels_weights_and_slices_of_the_configuration():
    config = build_eval_config(DEFAULT_TASKS, EvaluationConfig(slices=(("tab",), ("tab", "gender"))), ())
    (spec,) = config.model_specs
    assert dict(spec.label_keys) == {"pctr": "click", "pcvr": "purchase", "pctcvr": "purchase"}
    assert dict(spec.example_weight_keys) == {"pcvr": "click"}
    assert [list(s.feature_keys) for s in config.slicing_specs] == [[], ["tab"], ["tab", "gender"]]
    assert [list(s.output_names) for s in config.metrics_specs] == [["pctr"], ["pcvr"], ["pctcvr"]]


def test_there_is_always_a_floor_for_the_first_model():
    for gates in [(), (Gate(task="cvr", metric="log_loss", not_worse_by=0.1),)]:
        thresholds = gated(build_eval_config(DEFAULT_TASKS, EvaluationConfig(), gates))
        assert thresholds["pctr", "AUC"].value_threshold.lower_bound.value == 0.5
    margin = Gate(task="ctr", metric="auc", not_worse_by=0.1)
    both = gated(build_eval_config(DEFAULT_TASKS, EvaluationConfig(), (margin,)))
    assert both["pctr", "AUC"].value_threshold.lower_bound.value == 0.5
    assert both["pctr", "AUC"].change_threshold.absolute.value == -0.1
    own = gated(build_eval_config(DEFAULT_TASKS, EvaluationConfig(), (Gate(task="cvr", metric="auc", at_least=0.6),)))
    assert list(own) == [("pcvr", "AUC")]


def test_directions_of_change():
    gates = (Gate(task="ctr", metric="auc", not_worse_by=0.01), Gate(task="ctr", metric="log_loss", not_worse_by=0.02))
    thresholds = gated(build_eval_config(DEFAULT_TASKS, EvaluationConfig(), gates))
    auc, loss = (thresholds["pctr", name].change_threshold for name in ("AUC", "BinaryCrossEntropy"))
    assert (auc.direction, auc.absolute.value) == (config_pb2.MetricDirection.HIGHER_IS_BETTER, -0.01)
    assert (loss.direction, loss.absolute.value) == (config_pb2.MetricDirection.LOWER_IS_BETTER, 0.02)


def test_rules_without_a_baseline_keep_their_floors():
    gates = (
        Gate(task="ctr", metric="auc", at_least=0.6, not_worse_by=0.01),
        Gate(task="cvr", metric="auc", not_worse_by=0.0),
    )
    thresholds = gated(without_change(build_eval_config(DEFAULT_TASKS, EvaluationConfig(), gates)))
    assert list(thresholds) == [("pctr", "AUC")]
    assert thresholds["pctr", "AUC"].value_threshold.lower_bound.value == 0.6
    assert not thresholds["pctr", "AUC"].HasField("change_threshold")


@pytest.mark.parametrize(
    "gates, message",
    [
        ([{"task": "ctr", "metric": "auc"}], "expected at least one of at_least, at_most and not_worse_by"),
        ([{"task": "ctr", "metric": "auc", "at_least": 0.9, "at_most": 0.1}], "expected at_least <= at_most, got 0.9"),
        ([{"task": "ctr", "metric": "calibration", "not_worse_by": 0.1}], "calibration is best at 1"),
        ([{"task": "ctr", "metric": "auc", "not_worse_by": -0.1}], "greater than or equal to 0"),
        ([{"task": "buy", "metric": "auc", "at_least": 0.5}], r"gates\[0\].task: expected one of ctr, .*, got 'buy'"),
        ([{"task": "ctr", "metric": "auc", "at_least": 0.5}] * 2, r"gates\[1\]: ctr auc has a gate already"),
    ],
)
def test_wrong_gates_are_refused(gates, message):
    with pytest.raises(ValueError, match=message):
        build_eval_config(DEFAULT_TASKS, EvaluationConfig(), [Gate.from_json(json.dumps(g)) for g in gates])


def test_component_tells_the_cache_of_its_code_and_configuration():
    channels = {
        "examples": types.Channel(type=standard_artifacts.Examples),
        "model": types.Channel(type=standard_artifacts.Model),
        "baseline_model": types.Channel(type=standard_artifacts.Model),
    }
    config = build_eval_config(DEFAULT_TASKS, EvaluationConfig(), ())
    evaluator = Evaluator(**channels, eval_config=config, example_splits=["eval"], code_fingerprint="of code")
    assert evaluator.exec_properties["code_fingerprint"] == "of code"
    assert json.loads(evaluator.exec_properties["example_splits"]) == ["eval"]
    assert proto_utils.json_to_proto(evaluator.exec_properties["eval_config"], config_pb2.EvalConfig()) == config
    assert sorted(evaluator.inputs) == sorted(channels)
    assert sorted(evaluator.outputs) == ["blessing", "evaluation"]
    assert evaluator.id == "Evaluator"
