"""gate: three run, the fourth waits. The essay on how it works opens `gate.coordination.jobs`."""

__version__ = "0.1.0"
