"""Whether this machine or image can run the pipeline: `seesaw doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PACKAGES = ("tfx", "tensorflow", "tf-keras", "apache-beam", "tensorflow-recommenders", "kfp")
"""Those whose versions matter. kfp is an extra."""

_ENGINE_SECONDS = 180


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
      name: of the check.
      works: False stops runs.
      text: what was found, or what is wrong and what would help.
    """

    name: str
    works: bool
    text: str


def examine(root: str | None, beam_options: Sequence[str], *, gpu: bool) -> list[Finding]:
    """Makes all checks.

    Args:
      root: folder that runs write to; not looked at where it is None.
      beam_options: flags of the Beam engine.
      gpu: whether there has to be a GPU.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("versions", _versions),
        ("devices", lambda: _devices(gpu)),
        ("beam", lambda: _engine(beam_options)),
    ]
    if root is not None:
        checks.append(("root", lambda: _root(root)))
    found = []
    for name, check in checks:
        try:
            found.append(check())
        except Exception as error:  # a check that breaks is a finding, and the others are still made
            text = str(error).strip().splitlines()
            found.append(Finding(name, False, f"{type(error).__name__}: {text[-1] if text else ''}"))
    return found


def _versions() -> Finding:
    versions = {"Python": platform.python_version()}
    missing: list[str] = []
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing += [package] if package != "kfp" else []
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        return Finding("versions", False, f"{text}; missing: {', '.join(missing)}")
    import tensorflow_recommenders  # noqa: F401  refuses a TensorFlow whose Keras is not Keras 2

    return Finding("versions", True, text)


def _devices(wanted: bool) -> Finding:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    with tf.device("GPU" if gpus else "CPU"):
        product = tf.linalg.matmul(tf.ones([64, 64]), tf.ones([64, 64]))
    if float(tf.reduce_max(tf.abs(product - 64.0))):
        return Finding("devices", False, "a product of matrices of ones is wrong")
    cores = os.cpu_count()
    if gpus:
        names = ", ".join(tf.config.experimental.get_device_details(g).get("device_name", g.name) for g in gpus)
        return Finding("devices", True, f"{len(gpus)} GPU(s): {names}; {cores} CPU cores")
    if wanted:
        built = "" if tf.test.is_built_with_cuda() else "; this TensorFlow is built without CUDA"
        return Finding("devices", False, f"expected a GPU, TensorFlow sees none{built}")
    return Finding("devices", True, f"no GPU; {cores} CPU cores")


def _engine(options: Sequence[str]) -> Finding:
    """Counts on the engine: an address that answers is not yet one that runs something."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    name = next((o.partition("=")[2] for o in options if o.startswith("--runner=")), "DirectRunner")
    result: list[Finding] = []

    def count() -> None:
        try:
            with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
                _ = pipeline | beam.Create(list(range(10))) | beam.CombineGlobally(sum) | beam.Map(_check_sum)
            result.append(Finding("beam", True, f"{name} runs a pipeline"))
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            result.append(Finding("beam", False, f"{name} does not run a pipeline: {lines[-1]}"))

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(_ENGINE_SECONDS)
    return result[0] if result else Finding("beam", False, f"{name} did not answer within {_ENGINE_SECONDS} s")


def _check_sum(total: int) -> None:
    if total != 45:
        raise ValueError(f"the sum of 0 to 9 is 45, got {total}")


def _root(root: str) -> Finding:
    from tfx.dsl.io import fileio

    fileio.makedirs(root)
    file, renamed = os.path.join(root, ".seesaw-doctor"), os.path.join(root, ".seesaw-doctor-renamed")
    with fileio.open(file, "w") as out:
        out.write("written")
    fileio.rename(file, renamed, overwrite=True)
    with fileio.open(renamed) as read:
        content = read.read()
    fileio.remove(renamed)
    if content != "written":
        return Finding("root", False, f"{root}: what was written is not what is read")
    free = "" if "://" in root else f"; {shutil.disk_usage(root).free / 2**30:.1f} GiB free"
    return Finding("root", True, f"{root} can be written to{free}")
