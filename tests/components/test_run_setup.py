"""The window and the paths of a run, found out by the run itself."""

import json
from datetime import date

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx

from components.baseline import Baseline
from components.log_example_gen.config import Window
from components.log_example_gen.window import inputs_fingerprint, resolve_window
from components.run_setup import LATEST, WHOLE_WINDOW, RunSetup, run_values
from components.run_setup.values import VALUES, window_of_run
from models.section import UserError
from tests.components.log_example_gen.log_files import attribution_config, event, exposure, logs_config, write_file

DAYS = [f"2026-01-0{day}" for day in range(1, 9)]
ATTRIBUTION = attribution_config("30m", "3d")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    for day in DAYS:
        write_file(root / "exposures" / day / "a.csv", [exposure("r", f"{day} 10:00")])
        write_file(root / "clicks" / day / "a.csv", [event("r", f"{day} 10:00")])
        write_file(root / "purchases" / day / "a.csv", [event("r", f"{day} 10:00", value=1.5)])
    return logs_config(root, "csv")


def window_config(**given):
    from components.log_example_gen.config import WindowConfig

    return WindowConfig.from_json(json.dumps({"last_day": "latest", "train_days": 2, **given}))


def days(window: Window) -> tuple[date, date, date]:
    return window.first_day, window.first_eval_day, window.last_day


# The window. The data end with the 8th, so labels are final up to the 4th.


@pytest.mark.parametrize(
    "first, last, found",
    [
        (WHOLE_WINDOW, LATEST, (2, 4, 4)),
        (WHOLE_WINDOW, "2026-01-03", (1, 3, 3)),
        ("2026-01-01", LATEST, (1, 4, 4)),
        ("2026-01-03", LATEST, (3, 4, 4)),
        ("2026-01-02", "2026-01-03", (2, 3, 3)),
    ],
)
def test_days_are_given_or_found(logs, first, last, found):
    window = window_of_run(logs, ATTRIBUTION, window_config(), first, last)
    assert days(window) == tuple(date(2026, 1, day) for day in found)


def test_it_is_the_window_of_a_local_run(logs):
    config = window_config(eval_days=2, train_days=1)
    assert window_of_run(logs, ATTRIBUTION, config, WHOLE_WINDOW, LATEST) == resolve_window(logs, ATTRIBUTION, config)


@pytest.mark.parametrize(
    "first, last, message",
    [
        ("yesterday", LATEST, "first_day: expected a day such as 2026-01-31, or 'window', got 'yesterday'"),
        (WHOLE_WINDOW, "", "last_day: expected a day such as 2026-01-31, or 'latest', got ''"),
        ("2026-01-04", LATEST, "first_day: expected a day up to 2026-01-03, .* end on 2026-01-04, got 2026-01-04"),
        (WHOLE_WINDOW, "2026-01-01", "there is no file for 2025-12-31"),
    ],
)
def test_mistakes_are_told(logs, first, last, message):
    with pytest.raises(UserError, match=message):
        window_of_run(logs, ATTRIBUTION, window_config(), first, last)


# The values

WINDOW = Window(first_day=date(2026, 1, 1), first_eval_day=date(2026, 1, 3), last_day=date(2026, 1, 4), data_end_ms=17)


def values(**changes):
    given = {"repository": None, "decided_by": "config", "hyperparameters": {"epochs": 1, "learning_rate": 0.1}}
    given |= {"window": WINDOW, "inputs_fingerprint": "files", "root": "/mnt/shop"} | changes
    return run_values(given.pop("window"), given.pop("inputs_fingerprint"), given.pop("root"), **given)


def test_values_are_texts_for_every_output():
    found = values()
    assert set(found) == set(VALUES) and all(isinstance(v, str) for v in found.values())
    assert (found["first_day"], found["first_eval_day"], found["last_day"]) == (
        "2026-01-01",
        "2026-01-03",
        "2026-01-04",
    )
    assert found["data_end_ms"] == "17" and Window.from_json(found["window"]) == WINDOW
    assert (found["repository"], found["checkpoints"]) == ("/mnt/shop/models", "/mnt/shop/checkpoints")
    assert found["joined_uri"] == "/mnt/shop/joined"
    assert values(repository="/srv/models")["repository"] == "/srv/models"


@pytest.mark.parametrize(
    "change, other",
    [
        ({"inputs_fingerprint": "other"}, True),
        ({"decided_by": "other"}, True),
        ({"hyperparameters": {"epochs": 2, "learning_rate": 0.1}}, True),
        ({"hyperparameters": {"learning_rate": 0.1, "epochs": 1}}, False),
        ({"root": "/elsewhere"}, False),
    ],
)
def test_the_fingerprint_changes_with_what_decides_on_a_model(change, other):
    assert (values(**change)["fingerprint"] != values()["fingerprint"]) == other


# The component, under TFX's own runner


def test_other_components_take_its_values_for_parameters(logs, tmp_path):
    hyperparameters = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "embedding_learning_rate": 0.1, "seed": 1}
    config = window_config()
    setup = RunSetup(
        logs=logs.canonical_json(),
        attribution=ATTRIBUTION.canonical_json(),
        window_config=config.canonical_json(),
        first_day=WHOLE_WINDOW,
        last_day=LATEST,
        root=str(tmp_path),
        repository="",
        decided_by="config",
        hyperparameters=hyperparameters,
    )
    found = {key: setup.outputs[key].future()[0].value for key in VALUES}
    window = {key: found[key] for key in ("first_day", "first_eval_day", "last_day", "data_end_ms")}
    baseline = Baseline(repository=found["repository"], model_name="ranker", **window, fingerprint=found["fingerprint"])
    metadata = str(tmp_path / "metadata.sqlite")
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="setup",
            pipeline_root=str(tmp_path / "artifacts"),
            components=[setup, baseline],
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(metadata),
        )
    )
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = metadata
    (execution,) = mlmd.MetadataStore(connection).get_executions_by_type("components.baseline.component.Baseline")
    taken = {k: p.string_value for k, p in execution.custom_properties.items() if not k.startswith("__")}
    window = resolve_window(logs, ATTRIBUTION, config)
    expected = run_values(
        window,
        inputs_fingerprint(logs, ATTRIBUTION, window),
        str(tmp_path),
        repository=None,
        decided_by="config",
        hyperparameters=hyperparameters,
    )
    read = ("repository", "first_day", "first_eval_day", "last_day", "data_end_ms", "fingerprint")
    assert {key: taken[key] for key in read} == {key: expected[key] for key in read}
