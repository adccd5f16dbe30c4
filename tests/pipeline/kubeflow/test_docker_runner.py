"""The compiled pipeline in the Kubeflow SDK's own local Docker runner, in the image of Dockerfile.

It needs an engine and the image, whose name comes in SEESAW_IMAGE; `.ci/image` builds one and runs this. The SDK is the
image's: the one of the older stack runs single components only. It asks the engine for a container for each component.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.kubeflow.config import COMPONENTS

IMAGE = os.environ.get("SEESAW_IMAGE")
SOCKET = Path("/var/run/docker.sock")
CONFIGS = Path(__file__).parents[3] / "pipeline" / "configs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(IMAGE is None, reason="SEESAW_IMAGE names no image built from Dockerfile"),
    pytest.mark.skipif(not SOCKET.exists(), reason=f"no Docker engine at {SOCKET}"),
]

SHOP = (
    "--users=300", "--items=120", "--categories=6", "--exposures-per-day=2000", "--days=6", "--purchase-window=1d",
    "--ctr=0.2", "--cvr=0.3", "--seed=3",
)  # fmt: skip

# Two days of a few rows do not make a good model: the floor is so low that any passes.
SETTINGS = (
    "window.train_days=2", "validation.drift={}", "evaluation.slices=[]",
    "gates=[{task: ctr, metric: auc, at_least: 0.1}]",
)  # fmt: skip

RUN = """
import json, sys
import yaml
from kfp import components, local

file, image, user, folder, parameters = sys.argv[1:]
spec, *_ = yaml.safe_load_all(open(file))
for executor in spec["deploymentSpec"]["executors"].values():
    assert executor["container"]["image"] == "{{$.inputs.parameters['image']}}"
    executor["container"]["image"] = image  # the backend's driver fills the parameter in, the runner does not
# Kubernetes' `command` takes the place of the image's entry point, the runner's does not.
local.init(local.DockerRunner(entrypoint=[""], user=user, network_mode="none"), pipeline_root=folder)
components.load_component_from_text(yaml.safe_dump(spec))(**json.loads(parameters))
"""


def in_image(folder: Path, *arguments: str, entrypoint: str = "seesaw") -> str:
    """What a program in the image prints; it sees the folder, the configurations and the engine."""
    mounts = [f"{folder}:{folder}", f"{CONFIGS}:{CONFIGS}:ro", f"{SOCKET}:{SOCKET}"]
    command = ["docker", "run", "--rm", "--network=none", f"--user={user()}", f"--group-add={SOCKET.stat().st_gid}"]
    command += [f"--volume={mount}" for mount in mounts]
    ended = subprocess.run(
        [*command, f"--entrypoint={entrypoint}", str(IMAGE), *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-8000:]
    return ended.stdout


def user() -> str:
    return f"{os.getuid()}:{os.getgid()}"


def test_the_pipeline_runs_from_raw_logs_to_the_promoted_model(tmp_path):
    logs, file, root = tmp_path / "logs", tmp_path / "pipeline.yaml", tmp_path / "root"
    in_image(tmp_path, "simulate", f"--out={logs}", *SHOP)
    settings = [f"--logs={logs}", *(f"--set={setting}" for setting in SETTINGS)]
    in_image(tmp_path, "kubeflow", "compile", f"--config={CONFIGS / 'demo.yaml'}", f"--out={file}", *settings)
    parameters = json.dumps({"root": str(root), "epochs": 2})
    printed = in_image(
        tmp_path, "-c", RUN, str(file), str(IMAGE), user(), str(tmp_path), parameters, entrypoint="python"
    )
    assert printed.count("Found image") == len(COMPONENTS)
    assert len(list(tmp_path.glob("demo-*/*/executor_output.json"))) == len(COMPONENTS)
    (promotion,) = tmp_path.glob("demo-*/*/promotion")
    verdict = json.loads(next(promotion.glob("*.json")).read_text())
    assert (verdict["verdict"], verdict["version"], verdict["baseline"]) == ("promote", 1, None)
    assert json.loads((root / "models" / "demo" / "labels.json").read_text())["stable"] == 1
    assert (root / "models" / "demo" / "1" / "saved_model.pb").is_file()
