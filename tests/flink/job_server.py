"""Finds or makes Beam's job server for Flink, which brings a Flink of its own; prints the path of its jar.

In this order: the jar that SEESAW_FLINK_JOB_SERVER names; the one of the installed Beam in Beam's own cache,
~/.apache_beam/cache/jars; that one from Maven Central; and one put together with Maven from Beam's modules, of the
version in pom.xml, because mirrors of Maven Central may lack the large jar. Beam talks to job servers of other
versions of its own too, but only the jar of the same version is what its makers test.

    python -m tests.flink.job_server
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import apache_beam

FLINK = "1.19"
CACHE = Path.home() / ".apache_beam" / "cache" / "jars"
NAME = f"beam-runners-flink-{FLINK}-job-server-{apache_beam.__version__}.jar"
URL = (
    "https://repo.maven.apache.org/maven2/org/apache/beam/"
    f"beam-runners-flink-{FLINK}-job-server/{apache_beam.__version__}/{NAME}"
)
_POM = Path(__file__).with_name("pom.xml")


class Missing(Exception):
    """What a run on Flink needs and this machine does not have."""


@functools.cache
def job_server_jar() -> Path:
    """The jar.

    Raises:
      Missing: naming what is not there.
    """
    if shutil.which("java") is None:
        raise Missing("no Java: `java` is not on the path")
    named = os.environ.get("SEESAW_FLINK_JOB_SERVER")
    if named:
        if not Path(named).is_file():
            raise Missing(f"SEESAW_FLINK_JOB_SERVER: there is no file {named}")
        return Path(named)
    jar = CACHE / NAME
    if jar.is_file():
        return jar
    CACHE.mkdir(parents=True, exist_ok=True)
    part = jar.with_name(f"{NAME}.{os.getpid()}")
    try:
        with urllib.request.urlopen(URL, timeout=20) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        part.rename(jar)
        return jar
    except (urllib.error.URLError, OSError) as error:
        part.unlink(missing_ok=True)
        return _from_modules(f"no job server for Flink: {jar} is not there, and {URL}: {error}")


def _from_modules(why: str) -> Path:
    folder = CACHE / "seesaw-flink-job-server"
    jar = folder / "job-server.jar"
    if jar.is_file():
        return jar
    if shutil.which("mvn") is None:
        raise Missing(f"{why}; and no Maven to put one together from Beam's modules")
    libraries = folder / "lib"
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={libraries}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(_POM), *goal], capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{why}; and Maven did not bring Beam's modules within 240 s") from None
    if done.returncode:
        found = [line for line in done.stdout.splitlines() if "ERROR" in line]
        raise Missing(f"{why}; and Maven: {found[0] if found else done.stdout[-300:]}")
    _write_launcher(jar, sorted(libraries.glob("*.jar")))
    return jar


def _write_launcher(jar: Path, libraries: list[Path]) -> None:
    """A jar that holds nothing but the names of others, since `java -jar` takes just one."""
    fields = (
        ("Manifest-Version", "1.0"),
        ("Main-Class", "org.apache.beam.runners.flink.FlinkJobServerDriver"),
        ("Class-Path", " ".join(library.as_uri() for library in libraries)),
    )
    lines = []
    for name, value in fields:  # a line of a manifest has 72 bytes at most, and goes on behind a space
        text = f"{name}: {value}"
        lines += [text[:70], *(f" {text[start : start + 69]}" for start in range(70, len(text), 69))]
    part = jar.with_name(f"{jar.name}.{os.getpid()}")
    with zipfile.ZipFile(part, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\r\n".join([*lines, "", ""]))
    part.rename(jar)


if __name__ == "__main__":
    try:
        print(job_server_jar())
    except Missing as error:
        sys.exit(str(error))
