"""What a run reads and where it writes, found out where the run takes place."""

from components.run_setup.component import RunSetup
from components.run_setup.values import LATEST, WHOLE_WINDOW, run_values

__all__ = ["LATEST", "WHOLE_WINDOW", "RunSetup", "run_values"]
