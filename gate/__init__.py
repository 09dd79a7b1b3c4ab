"""gate: three run, the fourth waits. The essay on how it works opens `gate.gatekeeper`."""

__version__ = "0.1.0"
