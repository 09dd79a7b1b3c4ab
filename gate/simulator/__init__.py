"""A provider to try gate against: `python -m gate.simulator`."""

from gate.simulator.runninghub import Simulator

__all__ = ["Simulator"]
