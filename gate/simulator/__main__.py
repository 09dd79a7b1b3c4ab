"""Command line of the simulator: `python -m gate.simulator --port 0 --limit 3` prints its address."""

from gate.simulator.runninghub import main

main()
