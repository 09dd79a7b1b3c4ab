"""Batches that the loop commits by itself, to SQLite: to hand one to a thread and to hear of it takes longer than the batch, and while
the loop works the thread waits for the interpreter at each statement (docs/performance.md).

Only what stands in nobody's way. The thread has the rest: what waits for somebody else's lock, for a slow disk, or behind what the
thread has already; what is refused, to find out who is to blame; and what takes long by itself.
"""

from __future__ import annotations

import math
import time

from sqlalchemy.engine import Engine

from gate.ledger.commit.checkpoints import Checkpoints
from gate.ledger.commit.group_commit import GroupCommitter, Task, answer
from gate.ledger.commit.writer import Writer

SLOW_S = 0.003
"""So long the loop may stand still for a disk, on average of the last batches. What it computes meanwhile does not count."""
LATELY = 16
"""Of so many, roughly: one long standstill is enough by itself."""
PAUSE_S = 10.0
"""For how long the thread waits for a disk that was slower; and on, until one of its own batches took no longer than THREADS_S."""
THREADS_S = 0.03
AGAIN_S = 0.1
"""How soon the loop tries again after something stood in the way: each time for nothing would cost more than the thread."""
MANY = 64
"""Requests that are too long a piece of work for the loop."""


class InlineCommitter:
    """`engine` waits for nobody."""

    def __init__(self, engine: Engine, writer: Writer, checkpoints: Checkpoints) -> None:
        self._engine, self._committer = engine, GroupCommitter(engine)
        self._writer, self._checkpoints = writer, checkpoints
        self._stood_s, self._slow, self._not_before = 0.0, False, 0.0
        self._closed = False

    def take(self, tasks: list[Task]) -> bool:
        """Whether they are committed, and those who asked are answered; else nothing was done, and they are the writer's."""
        began, worked = time.monotonic(), time.thread_time()
        if (
            self._writer.busy  # guard: loop-waits-for-the-thread
            or not self._may(began)
        ):
            return False
        if (
            len(tasks) > MANY  # guard: large-batch-in-the-thread
            or any(task.takes_long for task in tasks)  # guard: long-task-in-the-thread
        ):
            return False
        try:
            self._committer.commit(tasks, 0)
        except Exception:
            self._not_before = began + AGAIN_S
            return False
        finally:
            took_s = time.monotonic() - began
            took_s -= time.thread_time() - worked  # guard: disk-time-without-cpu-time
            self._stood(took_s)
        self._writer.committed(tasks)
        answer(tasks)
        self._checkpoints.committed(len(tasks))  # guard: loop-counts-for-checkpoints
        return True

    def _may(self, now: float) -> bool:
        if (
            self._closed  # guard: closed-loop-writes-nothing
            or now < self._not_before  # guard: loop-rests-after-a-slow-disk
        ):
            return False
        if self._slow and self._writer.took_s > THREADS_S:  # guard: loop-leaves-a-slow-disk
            return False
        self._slow = False
        return True

    def _stood(self, stood_s: float) -> None:
        self._stood_s += (stood_s - self._stood_s) / LATELY
        if self._stood_s > SLOW_S:
            self._stood_s, self._slow, self._not_before = 0.0, True, time.monotonic() + PAUSE_S
            self._writer.took_s = math.inf  # until it shows otherwise

    def close(self) -> None:
        """Before the writer's engine is: who closes the file last puts into it what was written ahead."""
        self._closed = True
        self._checkpoints.close()
        self._committer.leave()
        self._engine.dispose()  # guard: closed-loop-leaves-no-file
