"""The manifests: held to Kubernetes' own schemas, and to each other."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp", reason="the extra 'kubeflow' is not installed")

from kubernetes import client

from pipeline.kubeflow.config import KubeflowConfig
from pipeline.kubeflow.workers import GROUP, PLURAL

sys.path.append(str(Path(__file__).parent))
from fake_api import Refused, check

REPOSITORY = Path(__file__).parents[3]
FOLDER = REPOSITORY / "pipeline" / "kubeflow" / "manifests"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
FILES = [name for name in KUSTOMIZATION["resources"] if name.endswith(".yaml")]
(SERVING,) = {*KUSTOMIZATION["resources"]} - {*FILES}
"""Of the serving side, which has tests of its own."""
RESOURCES = [r for name in FILES for r in yaml.safe_load_all((FOLDER / name).read_text())]
MODELS = {
    "PersistentVolumeClaim": client.V1PersistentVolumeClaim,
    "ServiceAccount": client.V1ServiceAccount,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "Deployment": client.V1Deployment,
    "Service": client.V1Service,
}


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [r for r in RESOURCES if r["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    flink = [r["spec"]["taskManager"]["podTemplate"] for r in of_kind("FlinkDeployment")]
    return [*flink, *(r["spec"]["template"] for r in of_kind("Deployment"))]


def options(comment_of: str) -> dict[str, Any]:
    """The piece of configuration in the comment at the top of a file."""
    text = (FOLDER / comment_of).read_text()
    lines = re.findall(r"^#   (.*)$", text, flags=re.MULTILINE)
    return yaml.safe_load("\n".join(lines))


def test_the_kustomization_lists_every_file():
    assert set(FILES) == {p.name for p in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert (FOLDER / SERVING / "kustomization.yaml").is_file()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: f"{r['kind']}-{r['metadata']['name']}")
def test_resources_keep_the_schema(resource):
    if resource["kind"] == "FlinkDeployment":
        template = resource["spec"]["taskManager"]["podTemplate"]
        check(template, client.V1PodTemplateSpec, models=client)
    else:
        check(resource, MODELS[resource["kind"]], models=client)


def test_a_mistake_would_be_found():
    with pytest.raises(Refused, match="body.spec: unknown field replica of V1DeploymentSpec"):
        check({"spec": {"replica": 2}}, client.V1Deployment, models=client)


def test_what_is_mounted_is_there():
    claims = {r["metadata"]["name"] for r in of_kind("PersistentVolumeClaim")}
    for pod in pods():
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"]}
        assert set(volumes.values()) <= claims
        for container in pod["spec"]["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", ())} <= set(volumes)


def test_the_account_may_start_the_trainers_workers():
    (role,) = of_kind("Role")
    bound = {(s["name"], b["roleRef"]["name"]) for b in of_kind("RoleBinding") for s in b["subjects"]}
    assert bound == {("seesaw", "pipeline-runner"), ("seesaw", role["metadata"]["name"])}
    assert role["rules"] == [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["create", "get", "delete"]},
    ]


def test_services_find_their_pods_and_ports():
    deployments = {r["spec"]["template"]["metadata"]["labels"]["app"]: r for r in of_kind("Deployment")}
    for service in of_kind("Service"):
        deployment = deployments[service["spec"]["selector"]["app"]]
        assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
        open_ports = {
            p["containerPort"] for c in deployment["spec"]["template"]["spec"]["containers"] for p in c["ports"]
        }
        assert {p["port"] for p in service["spec"]["ports"]} == open_ports


def test_the_configuration_in_the_comments_fits_the_manifests():
    given = options("root.yaml")
    parsed = KubeflowConfig.model_validate_json(json.dumps(given["kubeflow"]))
    claims = [r["metadata"]["name"] for r in of_kind("PersistentVolumeClaim")]
    models = yaml.safe_load((FOLDER / SERVING / "claim.yaml").read_text())["metadata"]["name"]
    assert [v.claim for v in parsed.volumes] == [*claims, models]
    assert given["serving"]["repository"] == parsed.volumes[1].path
    assert parsed.service_account == of_kind("ServiceAccount")[0]["metadata"]["name"]
    assert parsed.root == parsed.volumes[0].path
    flags = dict(o.lstrip("-").split("=") for o in options("flink.yaml")["beam"]["options"])
    service = next(r for r in of_kind("Service") if r["metadata"]["name"] == "seesaw-beam")
    ports = {p["name"]: p["port"] for p in service["spec"]["ports"]}
    assert flags["job_endpoint"] == f"seesaw-beam:{ports['job']}"
    assert flags["artifact_endpoint"] == f"seesaw-beam:{ports['artifacts']}"
    (flink,) = of_kind("FlinkDeployment")
    worker = next(
        c for c in flink["spec"]["taskManager"]["podTemplate"]["spec"]["containers"] if c["name"] == "beam-worker"
    )
    assert flags["environment_config"] == f"localhost:{worker['ports'][0]['containerPort']}"


def test_the_job_server_is_of_the_version_of_beam_in_the_image():
    lock = (REPOSITORY / "uv.lock").read_text()
    versions = re.findall(r'name = "apache-beam"\nversion = "([\d.]+)"', lock)
    newest = max(versions, key=lambda v: [int(part) for part in v.split(".")])
    (image,) = [c["image"] for pod in pods() for c in pod["spec"]["containers"] if "job_server" in c.get("image", "")]
    assert image.rsplit(":", 1)[1] == newest
    (flink,) = of_kind("FlinkDeployment")
    assert f"flink{flink['spec']['image'].split(':')[1]}_job_server" in image
