"""Joins the logs of a window for analysts: labelled rows and the report, without training."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from tfx.types import standard_artifacts

from components.log_example_gen import LogReport
from components.log_example_gen.days import STOPPED_DIR
from components.log_example_gen.executor import Executor, JoinOptions
from components.log_example_gen.forgotten import Forgotten
from components.log_example_gen.joining import Form
from components.log_example_gen.window import resolve_window
from components.run_setup import run_values
from models.section import UserError
from pipeline.config import Config
from pipeline.pipeline import beam_flags, joined_uri, log_example_gen


def write_joined_rows(config: Config, out: Path, form: Form, root: Path | None = None) -> Path:
    """Joins the window's logs as a run does, and keeps nothing but the rows and the report.

    Args:
      config: the configuration.
      out: folder that appears when all is done: Split-train/ and Split-eval/ with the rows, report/ with the report and
        the rejected rows.
      form: what the rows are written as.
      root: root of runs whose list of forgotten users is heeded.

    Returns:
      The report's folder.

    Raises:
      UserError: if the folder is there already, or for what is wrong with the logs. If too many rows were rejected, the
        report is kept in a folder beside `out`, which it names.
    """
    if out.exists():
        raise UserError(f"{out}: the folder is there already; expected one to make")
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex}"
    joined = Path(joined_uri(partial))
    joined.mkdir(parents=True)
    try:
        if root is not None:
            Forgotten.read(joined_uri(root)).write(str(joined))
        window = resolve_window(config.logs, config.attribution, config.window)
        run = run_values(window, "", str(partial), repository=None, decided_by="", hyperparameters={})
        component = log_example_gen(config, run)
        examples, report = standard_artifacts.Examples(), LogReport()
        examples.uri, report.uri = str(partial), str(partial / "report")
        flags = [*beam_flags(config), *JoinOptions.flags(config.join)]
        context = Executor.Context(beam_pipeline_args=flags, tmp_dir=str(partial / "tmp"))
        outputs = {"examples": [examples], "report": [report]}
        try:
            Executor(context).Do({}, outputs, {**component.exec_properties, "form": form})
        except UserError as error:
            raise _with_report_kept(error, joined / STOPPED_DIR, out) from None
        shutil.rmtree(joined)
        shutil.rmtree(partial / "tmp", ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / "report"


def _with_report_kept(error: UserError, stopped: Path, out: Path) -> UserError:
    """Keeps the report of a stopped join, if there is one, and says where."""
    if not stopped.exists():
        return error
    kept = out.with_name(f"{out.name}-stopped")
    shutil.rmtree(kept, ignore_errors=True)
    stopped.rename(kept)
    return UserError(str(error).replace(str(stopped), str(kept)))
