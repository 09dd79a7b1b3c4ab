"""Commit small SQLite batches on the event loop itself.

To wake a thread takes longer than a batch does. While the loop works, the thread also waits for the interpreter lock at each
statement (docs/performance.md).

Only a batch that nothing delays runs here. The thread has the rest:

- what waits for a lock, for a slow disk, or behind a batch that the thread has already;
- what fails, so that the thread finds out which request is the cause;
- what takes long by itself.

Measured gain (`python -m bench ablation`): +12 % CPU for a pair without it, and 1.2 times the p99.
"""

from __future__ import annotations

import math
import time

from sqlalchemy.engine import Engine

from gate.ledger.commit.checkpoints import Checkpoints
from gate.ledger.commit.group_commit import GroupCommitter, Task, answer
from gate.ledger.commit.writer import Writer

SLOW_S = 0.003
"""Average disk wait (s) above which commits move to the thread. CPU time does not count."""
LATELY = 16
"""Number of batches that the average covers, roughly. One very long wait is enough to exceed SLOW_S."""
PAUSE_S = 10.0
"""How long commits stay in the thread (s) after a slow disk.

Then they stay there until a batch of the thread took no longer than THREADS_S.
"""
THREADS_S = 0.03
"""Duration of a batch in the thread (s) up to which the disk counts as fast again."""
AGAIN_S = 0.1
"""Pause (s) after a batch that failed on the loop. Without it each batch would be tried twice."""
MANY = 64
"""Requests in a batch above which it would block the event loop for too long."""


class InlineCommitter:
    """Commits batches on the event loop, as long as no lock and no slow disk delays it."""

    def __init__(self, engine: Engine, writer: Writer, checkpoints: Checkpoints) -> None:
        """Share the SQLite file with the writer.

        Args:
            engine: An engine that does not wait for locks.
            writer: Takes the batches that are not committed here.
            checkpoints: Is told of each commit.
        """
        self._engine, self._committer = engine, GroupCommitter(engine)
        self._writer, self._checkpoints = writer, checkpoints
        self._average_wait_s, self._slow, self._not_before = 0.0, False, 0.0
        self._closed = False

    def take(self, tasks: list[Task]) -> bool:
        """Commit a batch and answer its callers, unless the writer has to do it.

        Args:
            tasks: The batch.

        Returns:
            False when nothing was done. The batch is the writer's then.
        """
        began, worked = time.monotonic(), time.thread_time()
        if (
            self._writer.behind  # guard: loop-waits-for-the-thread
            or not self._may(began)
        ):
            return False
        if (
            len(tasks) > MANY  # guard: large-batch-in-the-thread
            or any(task.takes_long for task in tasks)  # guard: long-task-in-the-thread
        ):
            return False
        try:
            wrote = self._committer.commit(tasks, 0)
        except Exception:
            self._not_before = began + AGAIN_S
            return False
        finally:
            took_s = time.monotonic() - began
            took_s -= time.thread_time() - worked  # guard: disk-time-without-cpu-time
            self._note_wait(took_s)
        self._writer.committed(tasks, wrote)
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

    def _note_wait(self, wait_s: float) -> None:
        self._average_wait_s += (wait_s - self._average_wait_s) / LATELY
        if self._average_wait_s > SLOW_S:
            self._average_wait_s, self._slow, self._not_before = 0.0, True, time.monotonic() + PAUSE_S
            self._writer.took_s = math.inf  # the disk counts as slow until a batch of the thread was fast

    def close(self) -> None:
        """Close the connection. Call this before the writer's engine is closed.

        The connection that closes the file last writes the log into it, and that must not be one that waits for no lock.
        """
        self._closed = True
        self._checkpoints.close()
        self._committer.leave()
        self._engine.dispose()  # guard: closed-loop-leaves-no-file
