"""The deployment files, held against Kubernetes' own schemas, TF Serving's flags and one another."""

import copy
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serving.model_repository import ModelRepository
from tests.serving.fake_tf_serving import FakeTFServing
from tests.serving.test_model_repository import saved_model

DEPLOYMENT = Path(__file__).parents[2] / "serving" / "deployment"
KUBERNETES = DEPLOYMENT / "kubernetes"
OVERLAYS = ("volume", "bucket", "gpu", "batching")
VERSIONS = ("1.29", "1.37")  # the first with init containers that go on, and the newest that the schemas are for

# Of tensorflow_serving/model_servers/main.cc, release 2.19; the image's entry point sets the first four.
FLAGS = {
    flag
    for line in """port rest_api_port model_name model_base_path grpc_socket_path rest_api_num_threads
    rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
    enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
    flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file
    tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file
    platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
    enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content""".splitlines()
    for flag in line.split()
}
NEEDED = {
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "enable_grpc_healthcheck_service",
    "monitoring_config_file",
    "num_load_threads",
}

# What the Prometheus operator's definition of a ServiceMonitor asks for, as far as it is used here.
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["endpoints", "selector"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": LABELS, "matchExpressions": {"type": "array"}},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "scheme": {"enum": ["http", "https"]},
                            "interval": {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d))+$"},
                            "scrapeTimeout": {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d))+$"},
                        },
                    },
                },
            },
        },
    },
}


def documents(file):
    return [d for d in yaml.safe_load_all(file.read_text()) if d]


def patched(document, operations):
    """A document after JSON patches (RFC 6902): add, replace and test, which are all that is used."""
    document = copy.deepcopy(document)
    for operation in operations:
        *way, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        place = document
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        key = last if isinstance(place, dict) else len(place) if last == "-" else int(last)
        there = key in place if isinstance(place, dict) else key < len(place)
        if operation["op"] == "test":
            assert place[key] == operation["value"], operation
        elif operation["op"] == "replace":
            assert there, f"nothing to replace at {operation['path']}"
            place[key] = operation["value"]
        else:
            assert operation["op"] == "add", operation
            if isinstance(place, list):
                place.insert(key, operation["value"])
            else:
                place[key] = operation["value"]
    return document


def composed(folder):
    """What `kubectl kustomize` makes of a folder, by kind and name."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches", "images"}
    found = {}
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        for document in composed(path).values() if path.is_dir() else documents(path):
            key = document["kind"], document["metadata"]["name"]
            assert key not in found
            found[key] = document
    for image in kustomization.get("images", []):
        for container in containers(found["Deployment", "ranker"]):
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image['name']}:{image['newTag']}"
    for patch in kustomization.get("patches", []):
        key = patch["target"]["kind"], patch["target"]["name"]
        found[key] = patched(found[key], yaml.safe_load((folder / patch["path"]).read_text()))
    return found


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


def containers(deployment):
    return pod(deployment)["initContainers"] + pod(deployment)["containers"]


def validate(document, version=VERSIONS[-1]):
    if document["kind"] == "ServiceMonitor":
        jsonschema.validate(document, SERVICE_MONITOR)
    else:
        kubernetes_validate.validate(document, version, strict=True)


def flags(arguments):
    return dict(a.removeprefix("--").split("=", 1) for a in arguments)


@pytest.fixture(scope="module")
def manifests():
    return {overlay: composed(KUBERNETES / overlay) for overlay in OVERLAYS}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_of_kubernetes_schema(manifests, version):
    kinds = set()
    seen = []
    for overlay in OVERLAYS:
        for (kind, _), document in manifests[overlay].items():
            kinds.add(kind)
            if document not in seen:  # a schema takes a second to read
                validate(document, version)
                seen.append(document)
    assert kinds == {
        *("Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor"),
        *("PersistentVolumeClaim", "ServiceAccount"),
    }


CONTAINER = "/spec/template/spec/containers/0"
BROKEN = {
    "a misspelt field": ("Deployment", f"{CONTAINER}/imagee", "ranker"),
    "text for a number": ("Deployment", f"{CONTAINER}/ports/0/containerPort", "grpc"),
    "no selector": ("Deployment", "/spec", {"template": {}}),
    "no target of scaling": ("HorizontalPodAutoscaler", "/spec", {"maxReplicas": 3}),
    "no endpoints": ("ServiceMonitor", "/spec", {"selector": {}}),
    "an interval without a unit": ("ServiceMonitor", "/spec/endpoints/0/interval", "15"),
}


@pytest.mark.parametrize("kind, path, value", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_manifest_is_refused(manifests, kind, path, value):
    with pytest.raises(jsonschema.ValidationError):
        validate(patched(manifests["volume"][kind, "ranker"], [{"op": "add", "path": path, "value": value}]))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_agree(manifests, overlay):
    """Every name that a manifest uses is declared: volumes, claims, settings, ports, labels, files."""
    found = manifests[overlay]
    deployment = found["Deployment", "ranker"]
    spec, labels = pod(deployment), deployment["spec"]["template"]["metadata"]["labels"]
    volumes = {v["name"]: v for v in spec["volumes"]}
    for container in containers(deployment):
        assert {m["name"] for m in container["volumeMounts"]} <= set(volumes)
    for volume in volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in found
        if settings := volume.get("configMap"):
            assert ("ConfigMap", settings["name"]) in found
    if account := spec.get("serviceAccountName"):
        assert ("ServiceAccount", account) in found
    ports = {p["name"]: p["containerPort"] for c in spec["containers"] for p in c["ports"]}
    for (kind, _), document in found.items():
        if kind == "Service":
            assert document["spec"]["selector"].items() <= labels.items()
            assert {p["targetPort"] for p in document["spec"]["ports"]} <= set(ports)
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["PodDisruptionBudget", "ranker"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    target = found["HorizontalPodAutoscaler", "ranker"]["spec"]
    assert (target["scaleTargetRef"]["kind"], target["scaleTargetRef"]["name"]) in found
    metric = target["metrics"][0]["containerResource"]
    (serving,) = (c for c in spec["containers"] if c["name"] == metric["container"])
    assert metric["name"] in serving["resources"]["requests"]  # utilization is of the request
    monitor = found["ServiceMonitor", "ranker"]["spec"]
    watched = [
        d for (kind, _), d in found.items()
        if kind == "Service" and monitor["selector"]["matchLabels"].items() <= d["metadata"]["labels"].items()
    ]  # fmt: skip
    assert len(watched) == 1  # two would count every pod twice
    assert monitor["endpoints"][0]["port"] in {p["name"] for p in watched[0]["spec"]["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert serving[probe]["grpc"]["port"] == ports["grpc"] == 8500


def metrics_path(text):
    """Where TF Serving shows its metrics by a MonitoringConfig; its message is not in tensorflow-serving-api."""
    return re.fullmatch(r'prometheus_config { enable: true path: "(/[^"]+)" }', text.strip())[1]


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_of(container, settings):
    """Where a container finds the files of the settings."""
    mount = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "settings")
    return {f"{mount}/{name}": text for name, text in settings["data"].items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_tf_serving_has_the_flags_and_files_that_it_is_given(manifests, overlay):
    found = manifests[overlay]
    labels, serving = containers(found["Deployment", "ranker"])
    given = flags(serving["args"])
    assert NEEDED <= set(given) <= FLAGS
    assert int(given["num_load_threads"]) > 0
    files = files_of(serving, found["ConfigMap", "ranker-settings"])
    path = found["ServiceMonitor", "ranker"]["spec"]["endpoints"][0]["path"]
    assert metrics_path(files[given["monitoring_config_file"]]) == path
    # `rank` cannot be batched by TF Serving: one user's row, many candidates' rows.
    assert ("enable_batching" in given) == (overlay == "batching")
    if overlay == "batching":
        assert given["enable_per_model_batching_parameters"] == "true"
        values = dict(line.split(" {") for line in files[given["batching_parameters_file"]].splitlines() if "{" in line)
        assert set(values) == {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}
    assert flags(labels["args"][1:-1])["out"] == given["model_config_file"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_labels_are_followed_beside_tf_serving(manifests, overlay):
    labels, serving = containers(manifests[overlay]["Deployment", "ranker"])
    assert labels["args"][0] == "models-config" and labels["args"][-1] == "--follow"
    found = flags(labels["args"][1:-1])
    assert found["server"] == "127.0.0.1:8501" and found["out"] == flags(serving["args"])["model_config_file"]
    assert labels["startupProbe"]["exec"]["command"] == ["test", "-f", found["out"]]
    for container in (labels, serving):
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        assert mounts[found["root"]]["readOnly"]
        assert mounts["/config"].get("readOnly", False) == (container is serving)


@pytest.mark.timeout(180)
def test_the_container_beside_tf_serving_moves_its_labels(manifests, tmp_path):
    """Its arguments as they are, but for the folders and the address, beside a server with TF Serving's rules."""
    repository = ModelRepository(tmp_path / "models", "shop")
    repository.promote(repository.publish(saved_model(tmp_path / "a", "a"), reason=""), "")
    file = tmp_path / "config" / "models.config"
    server = FakeTFServing(file)
    arguments = containers(manifests["volume"]["Deployment", "ranker"])[0]["args"]
    for name, here in {
        "/models": tmp_path / "models",
        "/config": tmp_path / "config",
        "127.0.0.1:8501": server.address,
    }.items():
        arguments = [a.replace(f"={name}", f"={here}") for a in arguments]
    command = [sys.executable, "-m", "pipeline", *arguments, "--poll", "0.05"]
    process = subprocess.Popen(command, cwd=DEPLOYMENT.parents[1])
    try:
        wait_for(file.exists)
        server.start()
        assert server.labels == {"stable": 1}
        repository.promote(repository.publish(saved_model(tmp_path / "b", "b"), reason=""), "")
        wait_for(lambda: server.reload() and server.wanted == {1, 2})
        assert server.labels == {"stable": 1}
        time.sleep(0.3)  # while version 2 is not in memory, nothing moves
        assert not server.reload()
        server.load()
        wait_for(lambda: server.reload() and server.labels == {"stable": 2, "previous": 1})
        repository.rollback("slow")
        wait_for(lambda: server.reload() and server.labels == {"stable": 1, "previous": 2})
    finally:
        process.terminate()
        server.stop()
    assert process.wait(30) == 0


def test_the_variants_differ_in_what_they_are_for(manifests):
    gpu = containers(manifests["gpu"]["Deployment", "ranker"])[1]
    assert gpu["image"].endswith("-gpu") and gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    plain = containers(manifests["volume"]["Deployment", "ranker"])[1]
    assert f"{plain['image']}-gpu" == gpu["image"] and "nvidia.com/gpu" not in plain["resources"]["limits"]
    bucket = manifests["bucket"]
    assert ("PersistentVolumeClaim", "ranker-models") not in bucket
    models = pod(bucket["Deployment", "ranker"])["volumes"][0]
    assert models["name"] == "models" and set(models) == {"name", "csi"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl composes the overlays, and is not there")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_composes_the_same(manifests, overlay):
    made = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True, check=True
    )
    found = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(made.stdout)}
    assert found == manifests[overlay]


def test_compose_starts_the_same_two_processes(manifests):
    compose = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
    labels, serving = compose["services"]["labels"], compose["services"]["serving"]
    on_cluster = containers(manifests["volume"]["Deployment", "ranker"])[1]
    assert serving["image"] == on_cluster["image"]
    given = flags(serving["command"])
    assert NEEDED <= set(given) <= FLAGS
    for name in NEEDED - {"num_load_threads"}:
        assert given[name] == flags(on_cluster["args"])[name]
    assert labels["command"][0] == "models-config" and labels["command"][-1] == "--follow"
    found = flags(labels["command"][1:-1])
    assert found["server"] == "serving:8501" and found["out"] == given["model_config_file"]
    assert labels["healthcheck"]["test"] == ["CMD", "test", "-f", given["model_config_file"]]
    assert serving["depends_on"] == {"labels": {"condition": "service_healthy"}}
    for service in (labels, serving):
        for mount in service["volumes"]:
            source = mount.split("}")[-1].split(":")[0] if mount.startswith("${") else mount.split(":")[0]
            assert mount.startswith("${MODELS:-") or source in compose["volumes"]
    for config in serving["configs"]:
        assert metrics_path(compose["configs"][config["source"]]["content"])
        assert config["target"] == given["monitoring_config_file"]
