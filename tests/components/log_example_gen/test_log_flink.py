"""The same join on Flink, through Beam's portable runner and an embedded Flink."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.log_example_gen.window import resolve_window
from pipeline.simulator import simulate
from pipeline.simulator.config import SimulationConfig
from tests.components.log_example_gen.log_files import attribution_config, features, logs_config, run, window_config
from tests.flink.job_server import FLINK, Missing, job_server_jar

REPOSITORY = Path(__file__).resolve().parents[3]
FEATURES = features({"name": "price", "kind": "number"}, {"name": "device", "kind": "id"})
SIMULATED = {"exposures_per_day": 400, "days": 6, "users": 100, "items": 50, "purchase_window": "1d"}
PROCESSES = "--experiments=use_loopback_process_worker"


@pytest.fixture(scope="module")
def flink():
    """Flags of Beam for a Flink that Beam starts and stops, two tasks at once."""
    try:
        jar = job_server_jar()
    except Missing as missing:
        pytest.skip(f"not run on Flink: {missing}")
    master = ["--runner=FlinkRunner", "--flink_master=[local]", f"--flink_version={FLINK}", "--parallelism=2"]
    return [*master, f"--flink_job_server_jar={jar}"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    simulate(SimulationConfig.from_json(json.dumps(SIMULATED)), root)
    return root


def join(out, logs, flags=(), joined=None):
    """Joins all mature days; many small buckets, so that more than one task has some."""
    of_logs, attribution = logs_config(logs, max_rejected=0.2), attribution_config("30m", "1d")
    window = resolve_window(of_logs, attribution, window_config(2, 1))
    flags = ["--join_memory_gib=0.0005", *flags]
    return run(out, of_logs, FEATURES, window, attribution, joined=joined, flags=flags)


def checksum(found):
    """The same for the same rows in any order, per split."""
    digests = {split: [hashlib.sha256(record).digest() for record in rs] for split, rs in found.records.items()}
    return {split: (len(of), sum(int.from_bytes(d, "big") for d in of) % 2**256) for split, of in digests.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_same_rows_in_one_process_in_several_and_on_flink(tmp_path, logs, flink, caplog):
    caplog.set_level(logging.INFO, "apache_beam.runners.portability.portable_runner")
    here = join(tmp_path / "here", logs)
    assert min(len(records) for records in here.records.values()) > 100
    several = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    for name, flags in (("several", several), ("flink", flink)):
        other = join(tmp_path / name, logs, flags)
        assert checksum(other) == checksum(here), name
        assert other.report == here.report, name
        key = json.dumps
        assert sorted(map(key, other.rejected)) == sorted(map(key, here.rejected)), name
    assert "Job state changed to DONE" in caplog.text  # what comes back from the job server


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_leaves_nothing_that_is_picked_up(tmp_path, logs, flink):
    """A run on Flink whose worker is killed fails, or is right; the run after it is right."""
    here, out, joined = join(tmp_path / "here", logs), tmp_path / "out", tmp_path / "out" / "joined"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # Beam starts `python`
    command = [sys.executable, "-m", "tests.components.log_example_gen.test_log_flink", logs, out, *flink, PROCESSES]
    with (tmp_path / "log.txt").open("w") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=REPOSITORY, env={**os.environ, "PATH": path}
        )
    try:
        killed = _kill_worker(started, out)
        code = started.wait(timeout=400)
    finally:
        for member in psutil.process_iter():
            if os.getsid(member.pid) == started.pid:
                member.kill()
    assert killed, (tmp_path / "log.txt").read_text()[-3000:]
    if code:
        assert not (out / "report/report.json").exists()
        assert not list(out.glob("examples/Split-*/*"))
    # Days that were whole before the kill are used, others are not.
    after = join(tmp_path / "after", logs, joined=joined)
    assert checksum(after) == checksum(here)
    assert after.report == here.report


def _kill_worker(started: subprocess.Popen, out: Path) -> bool:
    """Kills a worker with SIGKILL as soon as rows are on their way; whether there was one.

    Not earlier: Beam's Flink runner waits for as long as it takes for a worker that has not reported yet.
    """
    while started.poll() is None:
        if list(out.rglob("*.arrow")):
            for child in psutil.Process(started.pid).children(recursive=True):
                if "SdkHarness" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    return True
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    join(Path(sys.argv[2]), Path(sys.argv[1]), sys.argv[3:])
