"""The Trainer as a job of several workers: what is compiled, and what its container does with it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from models.runtime import prepare_process

prepare_process()
pytest.importorskip("kfp", reason="the extra 'kubeflow' is not installed")

import kubernetes  # noqa: E402
import yaml  # noqa: E402

from models.section import UserError  # noqa: E402
from pipeline.config import load  # noqa: E402
from pipeline.kubeflow import entrypoint, workers  # noqa: E402
from pipeline.kubeflow.compiler import compile_pipeline  # noqa: E402

sys.path.append(str(Path(__file__).parent))
from fake_api import check  # noqa: E402

DEMO = Path(__file__).parents[3] / "pipeline" / "configs" / "demo.yaml"
CLUSTER = (
    "training.strategy=multi_worker",
    "kubeflow.trainer_workers=3",
    "kubeflow.components={Trainer: {gpu: 2, cpu: 16, memory_gb: 60, retries: 1, node_selector: {pool: gpu}, "
    "tolerations: [{key: nvidia.com/gpu, operator: Exists}]}}",
    "kubeflow.environment={TZ: UTC}",
    "kubeflow.secrets=[{variable: TOKEN, secret: log-store, key: token}]",
    "kubeflow.volumes=[{claim: shop, path: /mnt/shop}]",
    "kubeflow.image_pull_secret=registry",
    "kubeflow.service_account=seesaw",
)


@pytest.fixture(scope="module")
def compiled():
    return compile_pipeline(load(DEMO, overrides=CLUSTER), "registry/seesaw:1.4")


def container(compiled) -> dict:
    executor = compiled.spec["components"]["Trainer"]["executorLabel"]
    return compiled.spec["deploymentSpec"]["executors"][executor]["container"]


# What is compiled


def test_the_job_has_what_the_configuration_gives_the_trainer(compiled):
    args = container(compiled)["args"]
    assert [a for a in args if a == "--workers"] == ["--workers"] == args[-2:-1]
    job = json.loads(args[-1])
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["replicas"] == 3 and job["metadata"]["generateName"] == "demo-trainer-"
    check(worker["template"], kubernetes.client.V1PodTemplateSpec, models=kubernetes.client)
    check(job["metadata"], kubernetes.client.V1ObjectMeta, models=kubernetes.client)
    pod = worker["template"]["spec"]
    (of_worker,) = pod["containers"]
    assert of_worker["name"] == "tensorflow" and of_worker["command"] == [
        "python",
        "-m",
        "pipeline.kubeflow.entrypoint",
    ]
    # Filled in by the backend's launcher, as in every argument.
    assert of_worker["image"] == "{{$.inputs.parameters['image']}}"
    assert of_worker["resources"]["limits"] == {"cpu": "16.0", "memory": "60000000000", "nvidia.com/gpu": "2"}
    assert of_worker["env"] == [
        {"name": "TZ", "value": "UTC"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "log-store", "key": "token"}}},
    ]
    mounted = {m["name"]: m["mountPath"] for m in of_worker["volumeMounts"]}
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
    assert {claims[name]: path for name, path in mounted.items()} == {"shop": "/mnt/shop"}
    assert pod["nodeSelector"] == {"pool": "gpu"} and pod["serviceAccountName"] == "seesaw"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_the_container_that_starts_it_needs_no_gpu(compiled):
    assert container(compiled)["resources"] == {"cpuLimit": 2, "memoryLimit": 8}
    assert compiled.spec["root"]["dag"]["tasks"]["Trainer"]["retryPolicy"]["maxRetryCount"] == 1
    _, platform = yaml.safe_load_all(compiled.text)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["Trainer_executor"] == executors["Baseline_executor"]


@pytest.mark.parametrize(("strategy", "count"), [("multi_worker", 1), ("mirrored", 2), ("none", 2)])
def test_the_number_of_workers_goes_with_the_strategy(strategy, count):
    config = load(DEMO, overrides=(f"training.strategy={strategy}", f"kubeflow.trainer_workers={count}"))
    with pytest.raises(UserError, match=f"kubeflow.trainer_workers: expected .*, got {count} with {strategy}"):
        compile_pipeline(config)


# What the container does


class Cluster:
    """Kubernetes' API for custom objects, and what becomes of the job."""

    def __init__(self, *conditions: str, message: str = ""):
        self.states = [[], *[[{"type": c, "status": "True", "message": message}] for c in conditions]]
        self.created: list[dict] = []
        self.deleted: list[str] = []

    def create_namespaced_custom_object(self, group, version, namespace, plural, body):
        assert (group, version, namespace, plural) == ("kubeflow.org", "v1", "shop-team", "tfjobs")
        self.created.append(body)
        return {"metadata": {"name": body["metadata"]["generateName"] + "x1"}}

    def get_namespaced_custom_object(self, group, version, namespace, plural, name):
        assert name == "shop-trainer-x1"
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"status": {"conditions": state}} if state else {}

    def delete_namespaced_custom_object(self, group, version, namespace, plural, name):
        self.deleted.append(name)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Puts a cluster in the place of the real one."""
    (tmp_path / "namespace").write_text("shop-team\n")
    monkeypatch.setattr(workers, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(workers, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    before = signal.getsignal(signal.SIGTERM)

    def start(cluster: Cluster) -> Cluster:
        monkeypatch.setattr(kubernetes.client, "CustomObjectsApi", lambda: cluster)
        return cluster

    yield start
    signal.signal(signal.SIGTERM, before)


def call(tmp_path, uri: str = "gs://b/model") -> dict:
    def artifacts(key: str, at: str) -> dict:
        return {key: {"artifacts": [{"name": key, "uri": at, "type": {}, "metadata": {}}]}}

    return {
        "inputs": {"artifacts": artifacts("examples", "gs://b/examples"), "parameterValues": {"image": "seesaw:2"}},
        "outputs": {
            "artifacts": artifacts("model", uri) | artifacts("executor-logs", "gs://b/logs"),
            "outputFile": str(tmp_path / "out" / "metadata.json"),
        },
    }


def arguments(tmp_path, **given) -> list[str]:
    job = {
        "metadata": {"generateName": "shop-trainer-"},
        "spec": {"tfReplicaSpecs": {"Worker": {"replicas": 2, "template": {"spec": {"containers": [{}]}}}}},
    }
    return [
        "--executor_class_path", "a.B", "--json_serialized_invocation_args", json.dumps(call(tmp_path, **given)),
        "--json_serialized_inputs_spec_args", "{}", "--workers", json.dumps(job), "--runner=FnApiRunner",
    ]  # fmt: skip


def test_the_workers_get_the_call_and_the_backend_the_outputs(started, tmp_path):
    cluster = started(Cluster("Created", "Running", "Succeeded"))
    given = arguments(tmp_path)
    entrypoint.main(given)
    (job,) = cluster.created
    of_worker = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    assert of_worker["args"] == [*given[:6], given[8]]
    written = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert written == {
        "artifacts": {"model": {"artifacts": [{"name": "model", "uri": "gs://b/model", "metadata": {}}]}}
    }
    assert not cluster.deleted


def test_a_failed_job_fails_the_component(started, tmp_path):
    started(Cluster("Running", "Failed", message="worker 1 ran out of memory"))
    with pytest.raises(UserError, match="TFJob shop-trainer-x1 failed: worker 1 ran out of memory .kubectl logs"):
        entrypoint.main(arguments(tmp_path))
    assert not (tmp_path / "out").exists()


def test_the_job_ends_with_the_container(started, tmp_path):
    cluster = started(Cluster("Running"))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit):
        entrypoint.main(arguments(tmp_path))
    assert cluster.deleted == ["shop-trainer-x1"]


@pytest.mark.parametrize("uri", ["minio://mlpipeline/model", "s3://b/model"])
def test_workers_that_would_not_see_the_artifacts(started, tmp_path, uri):
    cluster = started(Cluster("Succeeded"))
    with pytest.raises(UserError, match=f"expected artifacts on gs:// or on a volume.*got 'model' at {uri}"):
        entrypoint.main(arguments(tmp_path, uri=uri))
    assert not cluster.created
