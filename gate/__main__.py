"""`python -m gate` is the command `gate`."""

from gate.cli.main import main

main()
