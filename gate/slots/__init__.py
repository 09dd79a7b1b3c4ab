"""Redis: who may run now."""

from gate.slots.semaphore import Acquired, Extended, Line, Note, Reply, Semaphore

__all__ = ["Acquired", "Extended", "Line", "Note", "Reply", "Semaphore"]
