"""A simulated provider, for tests and demos of gate: `python -m gate.simulator`."""

from gate.simulator.runninghub import Simulator

__all__ = ["Simulator"]
