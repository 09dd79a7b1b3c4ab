"""Checks of a running or stopped gate: `gate verify` and `gate doctor`."""
