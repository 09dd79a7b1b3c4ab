"""`python -m gate.simulator --port 0 --limit 3` prints the address of the simulator."""

from gate.simulator.runninghub import main

main()
