"""The content of the compiled pipeline: what the open-source backend reads of it, and what it would refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from models.runtime import prepare_process

prepare_process()
kfp = pytest.importorskip("kfp", reason="the extra 'kubeflow' is not installed")

from google.protobuf import json_format  # noqa: E402
from kfp import components  # noqa: E402
from kfp.client.client import _extract_pipeline_yaml  # noqa: E402
from kfp.pipeline_spec import pipeline_spec_pb2  # noqa: E402

from models.section import UserError  # noqa: E402
from pipeline.config import ConfigError, load  # noqa: E402
from pipeline.kubeflow.compiler import compile_pipeline  # noqa: E402
from pipeline.kubeflow.config import COMPONENTS  # noqa: E402

sys.path.append(str(Path(__file__).parent))
from backend import edges, topological  # noqa: E402

DEMO = Path(__file__).parents[3] / "pipeline" / "configs" / "demo.yaml"

CLUSTER = (
    "kubeflow.root=/mnt/shop",
    "kubeflow.pipeline_root=gs://shop/pipelines",
    "kubeflow.environment={TZ: UTC}",
    "kubeflow.secrets=[{variable: TOKEN, secret: log-store, key: token}]",
    "kubeflow.volumes=[{claim: shop, path: /mnt/shop}]",
    "kubeflow.image_pull_secret=registry",
    "kubeflow.components={Trainer: {gpu: 2, memory_gb: 60, node_selector: {pool: gpu}, "
    "tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]}, "
    "LogExampleGen: {cpu: 8, retries: 5}, Promotion: {retries: 0}}",
)


def compiled(*overrides: str, image: str | None = "registry/seesaw:1.4"):
    return compile_pipeline(load(DEMO, overrides=overrides), image)


@pytest.fixture(scope="module")
def plain():
    return compiled()


@pytest.fixture(scope="module")
def cluster():
    return compiled(*CLUSTER)


def tasks(pipeline):
    return pipeline.spec["root"]["dag"]["tasks"]


def containers(pipeline):
    executors = pipeline.spec["deploymentSpec"]["executors"]
    return {name: executors[c["executorLabel"]]["container"] for name, c in pipeline.spec["components"].items()}


# The graph


def test_it_is_what_the_backend_takes(plain):
    documents = list(yaml.safe_load_all(plain.text))
    assert len(documents) == 1 and documents[0] == plain.spec
    assert plain.spec["schemaVersion"] == "2.1.0"
    assert plain.spec["pipelineInfo"]["name"] == "demo"


def test_compiling_makes_no_folder_of_the_cluster_here(tmp_path):
    compiled(f"kubeflow.root={tmp_path}/of/the/cluster")
    assert list(tmp_path.iterdir()) == []


def test_every_component_of_the_pipeline_is_a_container(plain):
    assert set(tasks(plain)) == set(plain.spec["components"]) == set(COMPONENTS)
    for name, executor in plain.spec["deploymentSpec"]["executors"].items():
        assert set(executor) == {"container"}, name
    assert "resolver" not in plain.text.lower() and "importer" not in plain.text.lower()


def test_the_edges_are_those_of_the_data(plain):
    setup = {"RunSetup"}
    assert edges(tasks(plain)) == {
        "RunSetup": set(),
        "CuratedSchema": set(),
        "LogExampleGen": setup,
        "Baseline": setup,
        "StatisticsGen": {"LogExampleGen"},
        "ExampleValidator": {"StatisticsGen", "CuratedSchema", "Baseline"},
        "Transform": {"LogExampleGen", "CuratedSchema", "ExampleValidator"},
        "Trainer": setup | {"Transform", "Baseline"},
        "Evaluator": {"LogExampleGen", "Trainer", "Baseline"},
        "OfflineABTest": {"LogExampleGen", "Trainer", "Baseline"},
        "ServingCheck": {"LogExampleGen", "Trainer"},
        "Promotion": setup | {"Trainer", "Baseline", "Evaluator", "OfflineABTest", "ServingCheck", "StatisticsGen"},
    }
    assert next(iter(topological(tasks(plain)))) in ("CuratedSchema", "RunSetup")


def test_artifacts_and_values_are_read_from_outputs_that_are_declared(plain):
    read = 0
    for name, task in tasks(plain).items():
        for kind, side, key in (
            ("artifacts", "taskOutputArtifact", "outputArtifactKey"),
            ("parameters", "taskOutputParameter", "outputParameterKey"),
        ):
            for source in task.get("inputs", {}).get(kind, {}).values():
                if side in source:
                    producer = plain.spec["components"][source[side]["producerTask"]]
                    assert source[side][key] in producer["outputDefinitions"][kind], name
                    read += 1
    assert read > 25


# What runs


def test_the_container_runs_our_entrypoint_with_the_executor_of_the_component(plain):
    executors = {
        "RunSetup": "components.run_setup.executor.Executor",
        "LogExampleGen": "components.log_example_gen.executor.Executor",
        "Trainer": "components.trainer.executor.Executor",
        "Transform": "tfx.components.transform.executor.Executor",
    }
    for name, container in containers(plain).items():
        assert container["command"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        arguments = dict(zip(container["args"][::2], container["args"][1::2]))
        assert arguments["--json_serialized_invocation_args"] == "{{$}}"
        assert arguments["--executor_class_path"] == executors.get(name, arguments["--executor_class_path"])
        declared = json.loads(arguments["--json_serialized_inputs_spec_args"])
        assert set(declared.get("artifacts", {})) == set(tasks(plain)[name].get("inputs", {}).get("artifacts", {}))
    assert "--runner=FnApiRunner" in containers(plain)["LogExampleGen"]["args"]


def test_the_image_is_a_parameter_of_the_run(plain):
    assert plain.parameters["image"] == "registry/seesaw:1.4"
    for name, container in containers(plain).items():
        assert container["image"] == "{{$.inputs.parameters['image']}}"
        assert tasks(plain)[name]["inputs"]["parameters"]["image"] == {"componentInputParameter": "image"}
        assert plain.spec["components"][name]["inputDefinitions"]["parameters"]["image"]["parameterType"] == "STRING"


# Parameters


def test_every_parameter_has_the_configurations_value_for_its_default(plain):
    config = load(DEMO)
    assert plain.parameters == {
        "first_day": "window",
        "last_day": "latest",
        "root": config.kubeflow.root,
        "image": "registry/seesaw:1.4",
        "epochs": config.training.epochs,
        "batch_size": config.training.batch_size,
        "learning_rate": config.optimizer.dense.learning_rate,
        "embedding_learning_rate": config.optimizer.embedding.learning_rate,
        "seed": config.training.seed,
    }
    types = {n: p["parameterType"] for n, p in plain.spec["root"]["inputDefinitions"]["parameters"].items()}
    assert {n for n, t in types.items() if t == "STRING"} == {"first_day", "last_day", "root", "image"}
    assert {n for n, t in types.items() if t == "NUMBER_DOUBLE"} == {"learning_rate", "embedding_learning_rate"}
    assert {n for n, t in types.items() if t == "NUMBER_INTEGER"} == {"epochs", "batch_size", "seed"}


def test_a_day_of_the_configuration_is_the_default():
    assert compiled("window.last_day=2026-01-08").parameters["last_day"] == "2026-01-08"


# Caching: the backend's key is inputs, arguments and image


def key(pipeline, name: str) -> str:
    """What the backend's cache key is made of before a run gives it values."""
    return json.dumps([tasks(pipeline)[name]["inputs"], containers(pipeline)[name]["args"]], sort_keys=True)


def test_only_what_looks_at_the_logs_is_never_cached(plain):
    cached = {name for name, task in tasks(plain).items() if task["cachingOptions"].get("enableCache")}
    assert cached == set(COMPONENTS) - {"RunSetup"}


@pytest.mark.parametrize("name", ["LogExampleGen", "Baseline"])
def test_the_cache_key_has_the_window_and_the_files(plain, name):
    sources = tasks(plain)[name]["inputs"]["parameters"]
    taken = {
        k: s["taskOutputParameter"]["outputParameterKey"] for k, s in sources.items() if "taskOutputParameter" in s
    }
    for value in ("first_day", "first_eval_day", "last_day", "data_end_ms"):
        assert taken[value] == value
    # By value: as an artifact it would be a new one at each run, and nothing would ever be cached.
    assert not tasks(plain)[name]["inputs"].get("artifacts")
    assert ("inputs_fingerprint" if name == "LogExampleGen" else "fingerprint") in taken.values()


def test_no_component_takes_the_setup_as_an_artifact(plain):
    for task in tasks(plain).values():
        for source in task["inputs"].get("artifacts", {}).values():
            assert source["taskOutputArtifact"]["producerTask"] != "RunSetup"


def test_the_hyperparameters_are_in_the_keys_of_what_they_change(plain):
    for name in ("RunSetup", "Trainer"):
        parameters = tasks(plain)[name]["inputs"]["parameters"]
        for hyperparameter in ("epochs", "batch_size", "learning_rate", "embedding_learning_rate", "seed"):
            assert parameters[hyperparameter] == {"componentInputParameter": hyperparameter}


def test_the_configuration_changes_the_keys_of_those_that_read_it_and_no_others(plain):
    other = compiled("training.shuffle_rows=777")
    changed = {name for name in COMPONENTS if key(other, name) != key(plain, name)}
    assert changed == {"Trainer", "RunSetup"}
    assert other.version != plain.version
    assert compiled().text == plain.text


def test_code_changes_the_key(plain, monkeypatch):
    monkeypatch.setattr("pipeline.pipeline.code_fingerprint", lambda *modules: "other" + modules[0])
    changed = {name for name in COMPONENTS if key(compiled(), name) != key(plain, name)}
    assert changed == set(COMPONENTS) - {"CuratedSchema", "Baseline", "StatisticsGen"}


# Resources, retries, the platform


def test_only_the_trainer_has_a_gpu(cluster, plain):
    for name, container in containers(cluster).items():
        accelerator = container["resources"].get("accelerator")
        assert accelerator == ({"type": "nvidia.com/gpu", "count": "2"} if name == "Trainer" else None), name
    assert "nvidia.com/gpu" not in plain.text


def test_resources_are_those_of_the_component_or_of_all(cluster):
    resources = {name: c["resources"] for name, c in containers(cluster).items()}
    assert (resources["Trainer"]["memoryLimit"], resources["Trainer"]["cpuLimit"]) == (60, 2)
    assert (resources["LogExampleGen"]["memoryLimit"], resources["LogExampleGen"]["cpuLimit"]) == (8, 8)
    assert resources["Baseline"] == {"cpuLimit": 2, "memoryLimit": 8}


def test_retries(cluster):
    retries = {name: t.get("retryPolicy", {}).get("maxRetryCount") for name, t in tasks(cluster).items()}
    assert (retries["LogExampleGen"], retries["Promotion"], retries["Trainer"]) == (5, None, 2)
    assert tasks(cluster)["Trainer"]["retryPolicy"]["backoffDuration"] == "60s"


def test_the_platform_document(cluster):
    spec, platform = yaml.safe_load_all(cluster.text)
    assert spec["defaultPipelineRoot"] == "gs://shop/pipelines"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {c["executorLabel"] for c in spec["components"].values()}
    of_all = {
        "secretAsEnv": [{"secretName": "log-store", "keyToEnv": [{"secretKey": "token", "envVar": "TOKEN"}]}],
        "pvcMount": [{"constant": "shop", "mountPath": "/mnt/shop"}],
        "imagePullSecret": [{"secretName": "registry"}],
    }
    assert executors["Baseline_executor"] == of_all
    assert executors["Trainer_executor"] == of_all | {
        "nodeSelector": {"labels": {"pool": "gpu"}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    assert containers(cluster)["Transform"]["env"] == [{"name": "TZ", "value": "UTC"}]


# What others make of it


@pytest.mark.parametrize("which", ["plain", "cluster"])
def test_kfp_loads_it(which, request, tmp_path):
    pipeline = request.getfixturevalue(which)
    file = tmp_path / "pipeline.yaml"
    file.write_text(pipeline.text)
    component = components.load_component_from_file(str(file))  # the SDK's strict loader
    assert set(component.component_spec.inputs) == set(pipeline.parameters)
    assert all(given.optional for given in component.component_spec.inputs.values())
    document = _extract_pipeline_yaml(str(file))  # what the client does before an upload
    assert document.pipeline_spec.root.dag.tasks.keys() == set(COMPONENTS)
    assert bool(document.platform_spec.platforms) == (which == "cluster")


def test_the_parser_is_strict(plain):
    with pytest.raises(json_format.ParseError, match="resolverr"):
        json_format.ParseDict(plain.spec | {"resolverr": {}}, pipeline_spec_pb2.PipelineSpec())


# Mistakes


@pytest.mark.parametrize(
    "override, message",
    [
        ("kubeflow.components={Transform: {gpu: 1}}", "components.Transform.gpu: expected 0, since the Trainer alone"),
        ("kubeflow.resources={gpu: 1}", "resources.gpu: expected 0, and a number under components.Trainer.gpu, got 1"),
        ("kubeflow.components={Traner: {cpu: 1}}", "components: expected names among RunSetup, .*, got 'Traner'"),
        ("kubeflow.schedule={cron: 0 5 * * *}", "schedule.cron: expected six fields"),
        ("kubeflow.secrets=[{variable: A B, secret: x, key: y}]", r"secrets\[0\].variable"),
    ],
)
def test_mistakes_are_told(override, message):
    with pytest.raises(ConfigError, match=message):
        load(DEMO, overrides=(override,))


def test_a_resolver_is_refused(monkeypatch):
    from tfx import v1 as tfx

    def with_resolver(config, root, inputs):
        resolver = tfx.dsl.Resolver(
            strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
            model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
            model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
        ).with_id("latest")
        return tfx.dsl.Pipeline(config.name, str(root), components=[resolver])

    monkeypatch.setattr("pipeline.kubeflow.compiler.create_pipeline", with_resolver)
    with pytest.raises(UserError, match="latest.*: Kubeflow Pipelines runs containers only, got resolver"):
        compiled()
