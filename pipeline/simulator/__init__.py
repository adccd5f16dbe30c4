"""A simulator of exposure, click and purchase logs whose truth is known."""

from pipeline.simulator.config import CLEAN, DirtConfig, SimulationConfig
from pipeline.simulator.generate import simulate
from pipeline.simulator.truth import auc, expected_reconciliation

__all__ = ["CLEAN", "DirtConfig", "SimulationConfig", "auc", "expected_reconciliation", "simulate"]
