from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from models.section import UserError
from pipeline.local_runner import ComponentFailed, run_pipeline, user_error_in
from pipeline.progress import ComponentRun, Silent
from pipeline.run_folder import RootInUse, RunFolder

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))  # TFX imports executors by name
import toy_components  # noqa: E402


class Recorder:
    def __init__(self):
        self.names, self.updates, self.finished = [], [], False

    def start(self, components):
        self.names = list(components)

    def update(self, component: ComponentRun):
        self.updates.append((component.name, component.state))

    def finish(self):
        self.finished = True


@pytest.fixture
def control(tmp_path, monkeypatch):
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv(toy_components.CONTROL, str(folder))
    return folder


def ran(control: Path) -> list[str]:
    """What really ran since the last call."""
    file = control / "ran"
    names = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return names


def states(result) -> list[str]:
    return [c.state for c in result.components]


def executions(root: Path) -> list[metadata_store_pb2.Execution]:
    connection = metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))
    with metadata.Metadata(connection) as handle:
        return handle.store.get_executions()


def run(root, reporter=None, text="hello", **options):
    return run_pipeline(toy_components.toy_pipeline(root, text), root, reporter, **options)


def test_runs_in_order_and_reports_every_state(tmp_path, control):
    recorder = Recorder()
    result = run(tmp_path, recorder)
    assert recorder.names == ["First", "Second", "Third"]
    assert recorder.updates == [(n, s) for n in recorder.names for s in ("running", "done")]
    assert recorder.finished
    assert (result.output("Third", "pushed") / "whole").read_text() == "HELLO"
    assert all(c.seconds > 0 for c in result.components)
    assert not result.nothing_changed


def test_cache(tmp_path, control):
    first = run(tmp_path)
    ran(control)
    for _ in range(2):  # publishing from the cache must not change what the next run finds
        again = run(tmp_path)
        assert states(again) == ["cached"] * 3
        assert again.nothing_changed
        assert again.outputs == first.outputs
        assert again.run_id != first.run_id
    assert ran(control) == []
    assert states(run(tmp_path, text="other")) == ["done"] * 3
    ran(control)
    assert states(run(tmp_path, use_cache=False)) == ["done"] * 3
    assert ran(control) == ["First", "Second", "Third"]


def test_failure_stops_the_run_and_the_next_run_resumes(tmp_path, control):
    (control / "Second").write_text("error")
    recorder = Recorder()
    with pytest.raises(ComponentFailed) as caught:
        run(tmp_path, recorder)
    assert caught.value.component == "Second"
    (error_file,) = tmp_path.glob("logs/*/error.txt")
    message = str(caught.value)
    assert message.startswith("Second: RuntimeError: expected [4]\n")
    assert "Run again when it is mended" in message
    assert message.endswith(str(error_file))
    assert "toy_components.py" in error_file.read_text()
    assert recorder.updates[-2:] == [("Second", "failed"), ("Third", "not run")]
    assert recorder.finished
    assert ran(control) == ["First", "Second"]
    assert list(tmp_path.glob("artifacts/Second/model/*")) == []

    (control / "Second").unlink()
    assert states(run(tmp_path)) == ["cached", "done", "done"]
    assert ran(control) == ["Second", "Third"]


def test_user_error_is_shown_without_its_machinery(tmp_path, control):
    (control / "First").write_text("user error")
    with pytest.raises(ComponentFailed) as caught:
        run(tmp_path)
    assert str(caught.value) == "First: clicks/2026-01-03: expected a folder, found none"


def test_user_error_inside_beam_is_shown_without_its_machinery(tmp_path, control):
    (control / "Third").touch()
    with pytest.raises(ComponentFailed) as caught:
        run(tmp_path)
    assert str(caught.value) == "Third: row 7: expected a number, got 'x'"


def test_full_disk_says_so(tmp_path, control):
    (control / "First").write_text("disk full")
    with pytest.raises(ComponentFailed, match=f"The disk is full: make room for {tmp_path}"):
        run(tmp_path)


@pytest.mark.parametrize("how", ["interrupt", "interrupt turned into an error"])
def test_interrupt_leaves_nothing_half_written(tmp_path, control, how):
    (control / "Second").write_text(how)
    before = signal.getsignal(signal.SIGINT)  # a process in the background may ignore it
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, recorder)
    assert recorder.updates[-2:] == [("Second", "stopped"), ("Third", "not run")]
    assert list(tmp_path.glob("artifacts/Second/model/*")) == []
    assert metadata_store_pb2.Execution.RUNNING not in {e.last_known_state for e in executions(tmp_path)}
    assert signal.getsignal(signal.SIGINT) is before
    with RunFolder(tmp_path):
        pass  # the lock is free


def test_killed_run_is_resumed(tmp_path, control):
    (control / "Second").write_text("hang")
    paths = [str(REPOSITORY), str(Path(__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys, toy_components; toy_components.main(sys.argv[1])", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (control / "hanging").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(RootInUse, match=f"process {process.pid}, run "):
            run(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ran(control) == ["First", "Second"]
    (half_written,) = tmp_path.glob("artifacts/Second/model/*/half")
    assert [e.last_known_state for e in executions(tmp_path)][-1] == metadata_store_pb2.Execution.RUNNING

    (control / "Second").unlink()
    assert states(run(tmp_path)) == ["cached", "done", "done"]
    assert ran(control) == ["Second", "Third"]
    assert not half_written.exists()
    assert metadata_store_pb2.Execution.RUNNING not in {e.last_known_state for e in executions(tmp_path)}
    assert states(run(tmp_path)) == ["cached"] * 3


def test_outputs_without_their_metadata_are_refused(tmp_path, control):
    run(tmp_path)
    (tmp_path / "metadata.sqlite").unlink()
    with pytest.raises(UserError, match="artifacts/First: outputs of earlier runs"):
        run(tmp_path)


def test_removed_output_is_made_again(tmp_path, control):
    result = run(tmp_path)
    model = result.output("Second", "model")
    for file in model.iterdir():
        file.unlink()
    model.rmdir()
    assert states(run(tmp_path)) == ["cached", "done", "done"]


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):\n  File 'x.py'\nmodels.section.UserError: bad row\n\n"
        "During handling of the above exception, another exception occurred:\n\nTraceback\n"
        "models.section.UserError: bad row [while running 'Parse/Map']\n",
        "models.section.UserError: bad row [while running 'Parse']",
        "Traceback\nUserError: bad row\n",
    ],
)
def test_user_error_quoted_in_text(text):
    assert user_error_in(RuntimeError(text)) == "bad row"


def test_user_error_as_cause_and_none():
    try:
        try:
            raise UserError("bad row")
        except UserError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        assert user_error_in(error) == "bad row"
    assert user_error_in(RuntimeError("SomeUserErrors: no")) is None


def test_only_some_components(tmp_path, control):
    # And what they need.
    assert [c.name for c in run(tmp_path, only=("Second",)).components] == ["First", "Second"]
    assert states(run(tmp_path)) == ["cached", "cached", "done"]


def test_arguments_of_the_command_line_are_kept_from_tfx(tmp_path, control, monkeypatch):
    seen = []

    class Watching(Silent):
        def start(self, names):
            seen.append(list(sys.argv))

    monkeypatch.setattr(sys, "argv", ["seesaw", "run", "-v"])
    run(tmp_path, reporter=Watching())
    assert (seen, sys.argv) == ([["seesaw"]], ["seesaw", "run", "-v"])
