"""The Trainer as a job of several workers, by Kubeflow's training operator.

The component's own container computes nothing: it starts a TFJob whose workers run the same executor on the same call,
each told of the others by the TF_CONFIG that the operator sets, and waits for it. What they read and write has to be in
a bucket or on a volume that all of them see.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from absl import logging

from models.section import UserError
from pipeline.kubeflow.config import KubeflowConfig

Json = dict[str, Any]

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "tfjobs"

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POLL_SECONDS = 10.0
_KEPT_SECONDS = 86_400


def trainer_job(name: str, image: str, command: list[str], config: KubeflowConfig) -> Json:
    """The TFJob of the Trainer of a pipeline, without the arguments of a call."""
    resources = config.of_worker
    limits: Json = {}
    if resources.cpu is not None:
        limits["cpu"] = str(resources.cpu)
    if resources.memory_gb is not None:
        limits["memory"] = str(int(resources.memory_gb * 10**9))
    if resources.gpu:
        limits["nvidia.com/gpu"] = str(resources.gpu)
    environment: list[Json] = [{"name": key, "value": value} for key, value in config.environment.items()]
    environment += [
        {"name": s.variable, "valueFrom": {"secretKeyRef": {"name": s.secret, "key": s.key}}} for s in config.secrets
    ]
    container = {
        # The operator looks for a container of this name, and tells the others of its port.
        "name": "tensorflow",
        "image": image,
        "command": command,
        "env": environment,
        "resources": {"limits": limits},
        "ports": [{"name": "tfjob-port", "containerPort": 2222}],
        "volumeMounts": [{"name": f"volume-{i}", "mountPath": v.path} for i, v in enumerate(config.volumes)],
    }
    pod: Json = {
        "containers": [container],
        "volumes": [
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": v.claim}}
            for i, v in enumerate(config.volumes)
        ],
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [{k: v for k, v in t.model_dump().items() if v} for t in resources.tolerations],
    }
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    if config.image_pull_secret:
        pod["imagePullSecrets"] = [{"name": config.image_pull_secret}]
    # A side car of a service mesh would outlive the worker.
    metadata = {"annotations": {"sidecar.istio.io/inject": "false"}}
    worker = {
        "replicas": config.trainer_workers,
        "restartPolicy": "Never",  # the component is tried again as a whole, from the last checkpoint
        "template": {"metadata": metadata, "spec": pod},
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TFJob",
        "metadata": {"generateName": f"{name.replace('_', '-')}-trainer-"},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 0, "ttlSecondsAfterFinished": _KEPT_SECONDS},
            "tfReplicaSpecs": {"Worker": worker},
        },
    }


def run_on_workers(job: Json, arguments: list[str], call: Json) -> None:
    """Runs a component's call as a job, and tells the backend of its outputs.

    Args:
      job: as of `trainer_job`.
      arguments: of the entrypoint in each worker.
      call: the ExecutorInput of the launcher.

    Raises:
      UserError: if the workers could not see the artifacts, or the job fails.
    """
    outputs = [(key, a) for key, given in call["outputs"]["artifacts"].items() for a in given["artifacts"]]
    inputs = [(key, a) for key, given in call["inputs"].get("artifacts", {}).items() for a in given["artifacts"]]
    for key, artifact in inputs + outputs:
        if artifact["uri"].startswith(("minio://", "s3://")):
            raise UserError(
                f"kubeflow.trainer_workers: expected artifacts on gs:// or on a volume, which all workers see, "
                f"got '{key}' at {artifact['uri']}; set kubeflow.pipeline_root"
            )
    job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["args"] = arguments
    _run(job)
    written = {
        key: {"artifacts": [{"name": artifact.get("name", key), "uri": artifact["uri"], "metadata": {}}]}
        for key, artifact in outputs
        if key != "executor-logs"
    }
    file = Path(call["outputs"]["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": written}), encoding="utf-8")


def _run(job: Json) -> None:
    """Until the job has ended; it ends with this process, if that is stopped."""
    from kubernetes import client, config

    config.load_incluster_config()
    jobs = client.CustomObjectsApi()
    where = (GROUP, VERSION, _NAMESPACE.read_text(encoding="utf-8").strip(), PLURAL)
    signal.signal(signal.SIGTERM, _stop)
    name = jobs.create_namespaced_custom_object(*where, job)["metadata"]["name"]
    logging.info("TFJob %s: %d workers.", name, job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"])
    try:
        while True:
            found = jobs.get_namespaced_custom_object(*where, name)
            ended = {c["type"]: c for c in found.get("status", {}).get("conditions", ()) if c["status"] == "True"}
            if "Failed" in ended:
                raise UserError(
                    f"TFJob {name} failed: {ended['Failed'].get('message', '')} "
                    f"(kubectl logs -l training.kubeflow.org/job-name={name})"
                )
            if "Succeeded" in ended:
                return
            time.sleep(_POLL_SECONDS)
    except (SystemExit, KeyboardInterrupt):
        jobs.delete_namespaced_custom_object(*where, name)
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
