"""Batches that the loop commits by itself, to SQLite: to hand one to a thread and to hear of it takes longer than the batch, and while
the loop works the thread waits for the interpreter at each statement (docs/performance.md).

Only what stands in nobody's way. The thread has the rest: what waits for somebody else's lock, for a slow disk, or behind what the
thread has already; what is refused, to find out who is to blame; and what takes long by itself.
"""

from __future__ import annotations

import time

from sqlalchemy.engine import Engine

from gate.ledger.checkpoints import Checkpoints
from gate.ledger.committing import Committer, Task, answer
from gate.ledger.writer import BATCH_MAX, Writer

SLOW_S = 0.003
"""So long the loop may stand still for a disk, on average of the last batches. What it computes meanwhile does not count."""
LATELY = 16
"""Of so many, roughly: one long standstill is enough by itself."""
THREAD_S = 10.0
"""For how long the thread waits for a disk that was slower."""


class AtOnce:
    """`engine` waits for nobody."""

    def __init__(self, engine: Engine, writer: Writer, checkpoints: Checkpoints) -> None:
        self._committer, self._writer, self._checkpoints = Committer(engine), writer, checkpoints
        self._stood_s = 0.0
        self._thread_until = 0.0

    def take(self, tasks: list[Task]) -> bool:
        """Whether they are committed, and those who asked are answered; else nothing was done, and they are the writer's."""
        began, worked = time.monotonic(), time.thread_time()
        if self._writer.busy or began < self._thread_until:
            return False
        if len(tasks) > BATCH_MAX or any(task.takes_long for task in tasks):
            return False
        tasks.sort(key=lambda task: task.key)
        try:
            self._committer.commit(tasks, 0)
        except Exception:
            return False
        finally:
            self._stood(time.monotonic() - began - (time.thread_time() - worked))
        self._checkpoints.committed(len(tasks))
        self._writer.committed(tasks)
        answer(tasks)
        return True

    def _stood(self, stood_s: float) -> None:
        self._stood_s += (stood_s - self._stood_s) / LATELY
        if self._stood_s > SLOW_S:
            self._stood_s, self._thread_until = 0.0, time.monotonic() + THREAD_S

    def close(self) -> None:
        self._checkpoints.close()
        self._committer.leave()
