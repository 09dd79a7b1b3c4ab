"""Redis: who may run now."""

from gate.slots.semaphore import Acquired, Extended, Line, Note, Reply, Semaphore, Survey

__all__ = ["Acquired", "Extended", "Line", "Note", "Reply", "Semaphore", "Survey"]
