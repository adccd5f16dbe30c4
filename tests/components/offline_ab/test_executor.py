import json

import apache_beam as beam
import numpy as np
import pytest
from sklearn import metrics as reference
from tfx.types import standard_artifacts

from components.offline_ab import EvidenceConfig, OfflineABTest, Rule, read_evidence
from components.offline_ab.config import ArmConfig, OffPolicyConfig
from components.offline_ab.document import Scorer
from components.offline_ab.executor import Executor, compare
from components.offline_ab.scoring import LoggedScores, column_dtypes, outputs_of, read_scores
from models.section import UserError
from models.tasks import DEFAULT_TASKS
from tests.components.toy_artifacts import artifact, baseline_artifact, model_artifact, save_model, write_examples

ROWS = 3000
TASKS = json.dumps([t.model_dump(mode="json") for t in DEFAULT_TASKS])


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(7)
    x, z = rng.normal(size=(2, ROWS)).astype(np.float32)
    click = (rng.random(ROWS) < sigmoid(x)).astype(np.int64)
    purchase = click * (rng.random(ROWS) < sigmoid(z)).astype(np.int64)
    user = rng.integers(0, 400, ROWS)
    requests = np.array([f"u{u}-{r}" for u, r in zip(user, rng.integers(0, 2, ROWS))])
    _, first, request, sizes = np.unique(requests, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(ROWS, np.int64)
    chosen[first] = 1  # the rows are in random order, so each had the same chance
    return {
        "x": x,
        "z": z,
        "user_id": np.array([f"u{u}" for u in user]),
        "request_id": requests,
        "arm": rng.choice(["old", "new"], 400)[user],
        "chosen": chosen,
        "propensity": 1 / sizes[request],
        "event_time": np.arange(ROWS) + 1_700_000_000_000,
        "tab": rng.choice(["a", "b"], ROWS),
        "price": rng.lognormal(2, 1, ROWS),
        "logged_pctr": sigmoid(0.5 * x),
        "click": click,
        "purchase": purchase,
    }


def run(folder, columns, slope, baseline, slices=(("tab",),), **settings):
    config = EvidenceConfig(**settings)
    output = artifact(standard_artifacts.ModelEvaluation, folder / "evidence")
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(folder / "tmp"), unique_id="1")
    Executor(context).Do(
        {
            "examples": [write_examples(folder / "examples", columns)],
            "model": [model_artifact(folder / "model", slope)],
            "baseline_model": [baseline],
        },
        {"evidence": [output]},
        {
            "config": config.canonical_json(),
            "tasks": TASKS,
            "slices": json.dumps(slices),
            "splits": json.dumps(["eval"]),
            "code_fingerprint": "",
        },
    )
    return read_evidence(output.uri)


@pytest.fixture(scope="module")
def second(tmp_path_factory, columns):
    """A candidate with steeper, right scores against one in service that is half as steep."""
    folder = tmp_path_factory.mktemp("second")
    rules = (
        Rule(task="ctr", metric="log_loss", better_by=0.0),
        Rule(task="ctr", metric="auc", not_worse_by=0.01),
        Rule(task="ctr", metric="log_loss", slice={"tab": "*"}, not_worse_by=0.02),
    )
    baseline = baseline_artifact(folder / "baseline", version=3, slope=0.5)
    off_policy = OffPolicyConfig(propensity="propensity", reward="click")
    more = {"arm": ArmConfig(column="arm"), "off_policy": off_policy}
    return run(folder, columns, 1.0, baseline, rules=rules, price="price", replicates=200, **more)


def result(evidence, task, metric, where=None):
    (found,) = [m for m in evidence.metrics if (m.task, m.metric, m.slice) == (task, metric, where or {})]
    return found


def test_both_sides_score_the_same_rows(second, columns):
    pctr, clicked = sigmoid(columns["x"]), columns["click"] == 1
    found = result(second, "ctr", "auc")
    assert found.candidate.value == pytest.approx(reference.roc_auc_score(columns["click"], pctr), abs=1e-6)
    assert found.difference.value == pytest.approx(0, abs=1e-9)  # the same order
    found = result(second, "cvr", "log_loss")
    expected = reference.log_loss(columns["purchase"][clicked], sigmoid(0.5 * columns["z"])[clicked])
    assert found.baseline.value == pytest.approx(expected, abs=1e-6)
    assert found.support.rows == clicked.sum()
    joint = result(second, "ctcvr", "auc")
    expected = reference.roc_auc_score(columns["purchase"], pctr * sigmoid(columns["z"]))
    assert joint.candidate.value == pytest.approx(expected, abs=1e-6)


def test_slices_have_their_own_rows(second, columns):
    for tab in ("a", "b"):
        of = columns["tab"] == tab
        found = result(second, "ctr", "log_loss", {"tab": tab})
        expected = reference.log_loss(columns["click"][of], sigmoid(columns["x"][of]))
        assert found.candidate.value == pytest.approx(expected, abs=1e-6)
        assert found.support.users == len(np.unique(columns["user_id"][of]))
        assert found.p_adjusted is not None and found.p_adjusted >= found.p_value


def test_candidate_that_is_better_is_promoted_with_each_rules_interval(second):
    assert second.verdict == "promote"
    assert [r.outcome for r in second.rules] == ["passed"] * 4
    assert {tuple(r.slice.items()) for r in second.rules} == {(), (("tab", "a"),), (("tab", "b"),)}
    assert second.rules[0].gain.low > 0
    assert second.reasons[0].startswith("ctr log_loss better by more than 0: passed, gain +")
    assert second.baseline.version == 3


def test_document_says_what_it_is_made_of(second, columns):
    assert second.data.rows == ROWS and second.data.users == len(np.unique(columns["user_id"]))
    assert second.data.requests == len(np.unique(columns["request_id"]))
    assert second.data.positives == {"click": columns["click"].sum(), "purchase": columns["purchase"].sum()}
    assert (second.data.first_time_ms, second.data.last_time_ms) == (1_700_000_000_000, 1_700_000_000_000 + ROWS - 1)
    rows = read_scores(second.links["scores of every row"])
    assert len(rows) == ROWS and rows.sides == ("baseline", "candidate")
    for histogram in second.histograms:
        rows_of = result(second, histogram.task, "auc").support.rows
        assert sum(histogram.candidate) == sum(histogram.baseline) == pytest.approx(rows_of)
    assert {(c.task, c.side) for c in second.calibration_curves} == {
        (task, side) for task in ("ctr", "cvr", "ctcvr") for side in ("baseline", "candidate")
    }
    assert [d.task for d in second.delong] == ["ctr", "cvr", "ctcvr"]
    assert result(second, "ctcvr", "value@10").candidate.value > 0


def test_arms_and_propensities_are_read_from_the_examples(second, columns):
    arms = {arm: len(np.unique(columns["user_id"][columns["arm"] == arm])) for arm in ("old", "new")}
    assert second.sample_ratio.units == "users" and second.sample_ratio.passed
    assert {a.arm: a.units for a in second.sample_ratio.arms} == arms
    total = 0.0
    requests = np.unique(columns["request_id"])
    for request in requests:
        of = np.flatnonzero(columns["request_id"] == request)
        best = of[np.argmax(columns["x"][of])]
        total += columns["click"][best] * columns["chosen"][best] * len(of)
    ips = next(v for v in second.off_policy if v.estimator == "ips")
    assert ips.candidate.value == pytest.approx(total / len(requests), rel=1e-6)
    assert ips.candidate.low < ips.candidate.value < ips.candidate.high
    assert ips.requests == len(requests)
    assert ips.difference.value == pytest.approx(0, abs=1e-12)  # both rank by x


def test_candidate_that_is_worse_is_kept_out(tmp_path, columns):
    rules = (Rule(task="ctr", metric="log_loss", not_worse_by=0.001),)
    baseline = baseline_artifact(tmp_path / "baseline", version=3, slope=1.0)
    found = run(tmp_path, columns, 0.5, baseline, rules=rules)
    assert found.verdict == "keep"
    assert found.rules[0].gain.high < -0.001
    assert found.reasons[0].startswith("ctr log_loss not worse by 0.001: failed, gain -")


def test_too_few_users_are_not_enough_data(tmp_path, columns):
    rules = (Rule(task="ctr", metric="auc", not_worse_by=0.5),)
    baseline = baseline_artifact(tmp_path / "baseline", version=3, slope=0.5)
    found = run(tmp_path, columns, 1.0, baseline, rules=rules, minimum_users=5000)
    assert found.verdict == "not_enough_data"
    assert "not enough data, 400 users" in found.reasons[0]
    assert result(found, "ctr", "auc").difference.low is None


@pytest.mark.parametrize("outputs", [None, ("pctr",)])
def test_first_model_is_left_to_the_floors(tmp_path, columns, outputs):
    version = None if outputs is None else 2
    baseline = baseline_artifact(tmp_path / "baseline", version, **({"outputs": outputs} if outputs else {}))
    found = run(tmp_path, columns, 1.0, baseline, rules=(Rule(task="ctr", metric="auc", better_by=0.0),))
    why = "no model is in service" if outputs is None else "the model in service (version 2) has no output pcvr, pctcvr"
    assert (found.verdict, found.baseline, found.rules) == ("promote", None, ())
    assert found.reasons == (f"{why}: the gates' absolute floors decide",)
    assert result(found, "ctr", "auc").candidate.low < result(found, "ctr", "auc").candidate.high


def test_columns_that_are_not_there_are_named(tmp_path, columns):
    lacking = {name: values for name, values in columns.items() if name != "request_id"}
    with pytest.raises(UserError, match="expected a column 'request_id' in the examples, found it in none"):
        run(tmp_path, lacking, 1.0, baseline_artifact(tmp_path / "baseline"))


def test_types_of_columns_are_those_of_the_examples(tmp_path, columns):
    write_examples(tmp_path / "examples", columns)
    file = str(next((tmp_path / "examples" / "Split-eval").glob("data*")))
    found = column_dtypes([file], ["user_id", "click", "price", "nothing"], ["user_id"])
    assert {name: dtype.name for name, dtype in found.items()} == {
        "user_id": "string",
        "click": "int64",
        "price": "float32",
    }


def test_models_are_looked_at_before_they_are_loaded(tmp_path):
    assert outputs_of(str(save_model(tmp_path / "model"))) == ("pctcvr", "pctr", "pcvr")
    with pytest.raises(UserError, match="found no saved_model.pb"):
        outputs_of(str(tmp_path))


def test_logged_scores_are_compared_like_a_model(tmp_path, columns):
    write_examples(tmp_path / "examples", columns)
    files = [str(f) for f in (tmp_path / "examples" / "Split-eval").glob("data*")]
    logged = {"pctr": "logged_pctr", "pcvr": "logged_pctr", "pctcvr": "logged_pctr"}
    found = compare(
        files,
        DEFAULT_TASKS,
        [],
        EvidenceConfig(replicates=50),
        baseline=(Scorer(name="in production", source="column logged_pctr"), LoggedScores(logged)),
        candidate=(Scorer(name="new", source=str(save_model(tmp_path / "model"))), str(tmp_path / "model")),
        folder=str(tmp_path / "out"),
        pipeline=beam.Pipeline(runner="FnApiRunner"),
    )
    expected = reference.log_loss(columns["click"], columns["logged_pctr"])
    assert result(found, "ctr", "log_loss").baseline.value == pytest.approx(expected, abs=1e-6)


def test_component_tells_the_cache_of_its_code_and_configuration():
    from tfx import types

    channels = {
        "examples": types.Channel(type=standard_artifacts.Examples),
        "model": types.Channel(type=standard_artifacts.Model),
        "baseline_model": types.Channel(type=standard_artifacts.Model),
    }
    config = EvidenceConfig(rules=(Rule(task="ctr", metric="auc", better_by=0.0),))
    node = OfflineABTest(
        **channels, config=config, tasks=DEFAULT_TASKS, slices=(), splits=["eval"], code_fingerprint="c"
    )
    assert node.exec_properties["code_fingerprint"] == "c"
    assert EvidenceConfig.from_json(node.exec_properties["config"]) == config
    assert sorted(node.outputs) == ["evidence"] and sorted(node.inputs) == sorted(channels)
