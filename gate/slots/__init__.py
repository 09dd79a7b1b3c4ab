"""Redis: who may run now."""

from gate.slots.connection import Link
from gate.slots.semaphore import NOT_DONE, Acquired, Extended, Line, Loaded, Note, Reply, Semaphore, Survey

__all__ = ["NOT_DONE", "Acquired", "Extended", "Line", "Link", "Loaded", "Note", "Reply", "Semaphore", "Survey"]
