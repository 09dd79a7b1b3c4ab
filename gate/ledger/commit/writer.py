"""The writer: one thread that commits changes in groups.

A batch runs in one order (pool, then job_id), so that two servers never deadlock. A batch that fails is rolled back, and its
tasks are run again one by one. Each then fails or succeeds alone. A task that finds its own outcome in SQL has succeeded.

Another transaction may hold a row, for example a terminal session or a suspended server. The row of a pool blocks all its
requests. The row of a job blocks only the requests about it. These tasks are set aside and tried again with later batches,
until they time out. Other tasks wait no longer than the first attempt to lock that row.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
import threading
import time
from collections.abc import Iterable

from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from gate.ledger.commit.group_commit import GroupCommitter, Locked, Task, Unreached, answer
from gate.model.errors import StoreDown

BATCH_MAX = 256
"""Requests in one commit. In a larger batch the first request waits longer than the shared commit saves."""
FIRST_LOCK_TIMEOUT_MS = 1_000
"""How long a batch waits for a row (ms), on Postgres. Another server holds a pool's row only for one commit."""
LOCK_AGAIN_MS = 50
"""How long a batch waits (ms) for a row that was held at the attempt before."""
AGAIN_S = 0.05
"""Time between two attempts for tasks that are set aside (s), while no other task comes."""
SET_ASIDE_S = 5.0
"""How long a task waits for a row in all (s)."""


class Writer:
    """The thread that writes.

    Attributes:
        writable: False from the first write that SQL refused for another reason than its content. A commit of a task that
            `proves` sets it to True again. Another commit does not, because a store that is read-only or full still answers.
        since: When the running batch began, by `time.monotonic()` (s); None between batches.
        took_s: How long the last batch took (s).
        held: Pools whose rows another transaction holds.
        behind: Number of tasks that were handed in and are not answered yet.
        wrote_at: Time of the last commit that wrote, by `time.monotonic()` (s); minus infinity before the first.
    """

    def __init__(self, engine: Engine) -> None:
        """Start the thread.

        Args:
            engine: An engine with `in_batches`.
        """
        self._committer = GroupCommitter(engine)
        self.behind = 0
        self._tasks: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self.writable = True
        self.since: float | None = None
        self.took_s = 0.0
        self.wrote_at = -math.inf
        self.held: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="gate-sql-write", daemon=True)
        self._thread.start()

    def put(self, tasks: list[Task]) -> None:
        """Hand in a batch. Call this on the event loop of its callers.

        Args:
            tasks: The batch.
        """
        self.behind += len(tasks)
        self._tasks.put(tasks)

    def close(self) -> None:
        """Commit what was handed in, then end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        aside: list[Task] = []
        goes_on = True
        while goes_on:
            fresh, goes_on = self._next(AGAIN_S if aside else None)
            self.since = time.monotonic()
            tasks = fresh + aside
            self._attempt_all(fresh, aside)
            self.took_s = time.monotonic() - self.since
            if goes_on:
                give_up = time.monotonic() - SET_ASIDE_S
                aside = [task for task in tasks if task.waits_for and task.handed_in > give_up]
            else:
                aside = []
            self.held = frozenset(task.key[0] for task in aside if task.waits_for == (task.key[0], None))
            self.since = None
            self._tell(task for task in tasks if task not in aside)
        self._committer.leave()

    def _next(self, wait_s: float | None) -> tuple[list[Task], bool]:
        """Wait for tasks.

        Args:
            wait_s: How long to wait (s); None for no limit.

        Returns:
            The tasks that are there, none after `wait_s`, and whether more may come.
        """
        try:
            handed_in = self._tasks.get(timeout=wait_s)
        except queue.Empty:
            return [], True
        batch: list[Task] = []
        while handed_in is not None:
            batch += handed_in
            if len(batch) >= BATCH_MAX or self._tasks.empty():
                return batch, True
            handed_in = self._tasks.get()
        return batch, False

    def _attempt_all(self, fresh: list[Task], aside: list[Task]) -> None:
        """Commit the tasks whose rows are free, then for each held row the tasks that wait for it."""
        rows = {task.waits_for: task.refusal for task in aside}
        first = []
        for task in fresh:
            row = next((row for row in ((task.key[0], None), task.key) if row in rows), None)
            if row is None:
                first.append(task)
            else:
                task.waits_for = row
        waiting = [task for task in fresh + aside if task.waits_for]
        self._attempt(first, FIRST_LOCK_TIMEOUT_MS)
        for _, group in itertools.groupby(sorted(waiting, key=_row), key=_row):
            self._attempt(list(group), LOCK_AGAIN_MS)

    def _attempt(self, tasks: list[Task], lock_ms: int) -> None:
        """Commit the tasks together, or one by one when that fails.

        When SQL cannot be reached, all of them fail at once. One by one, each would wait for its own timeout.
        """
        if not tasks:
            return
        try:
            self._commit(tasks, lock_ms)
        except Unreached as error:
            self._fail(tasks, error)
        except Locked as error:
            pools = {task.key[0] for task in tasks}
            if len(tasks) > 1 and not (error.whole_pool and len(pools) == 1):
                self._replay(tasks)
                return
            for task in tasks:
                task.set_aside((task.key[0], None) if error.whole_pool else task.key, error.refusal)
        except BaseException:
            self._replay(tasks)  # guard: bad-task-fails-alone

    def _replay(self, tasks: list[Task]) -> None:
        found: dict[tuple[str, str | None], StoreDown] = {}
        for number, task in enumerate(tasks):
            row = next((row for row in ((task.key[0], None), task.key) if row in found), None)
            if row is not None:
                task.set_aside(row, found[row])
                continue
            try:
                self._commit_alone(task)
            except Unreached as error:
                self._fail(tasks[number:], error)
                return
            except Locked as error:
                row = (task.key[0], None) if error.whole_pool else task.key
                found[row] = error.refusal
                task.set_aside(row, error.refusal)
            except BaseException as error:
                task.waits_for, task.error = None, error

    def _commit_alone(self, task: Task) -> None:
        try:
            self._commit([task], LOCK_AGAIN_MS)
        # guard: look-again-after-a-conflict
        except IntegrityError:  # meanwhile another server wrote the same job_id in another pool
            self._commit([task], LOCK_AGAIN_MS)

    def _commit(self, tasks: list[Task], lock_ms: int) -> None:
        try:
            wrote = self._committer.commit(tasks, lock_ms)
        except Locked:
            if lock_ms == FIRST_LOCK_TIMEOUT_MS:  # at the first attempt a whole table may be locked
                self.writable = False
            raise
        except StoreDown:  # guard: failed-commit-shows-sql-down
            self.writable = False
            raise
        self.committed(tasks, wrote)

    def committed(self, tasks: Iterable[Task], wrote: bool) -> None:
        """Note that these tasks are committed, which may show that SQL can be written.

        Args:
            tasks: The tasks.
            wrote: Whether the commit wrote rows. One that wrote none succeeds on a full disk too.
        """
        proves = any(task.proves for task in tasks)
        self.writable = self.writable or proves
        if wrote or proves:
            self.wrote_at = time.monotonic()

    def _fail(self, tasks: list[Task], error: Unreached) -> None:
        self.writable = False
        for task in tasks:
            task.waits_for, task.error = None, error.refusal

    def _tell(self, tasks: Iterable[Task]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Task]] = {}
        for task in tasks:
            if task.waits_for:
                task.error = task.refusal
            by_loop.setdefault(task.loop, []).append(task)
        for loop, mine in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer, mine)

    def _answer(self, tasks: list[Task]) -> None:
        self.behind -= len(tasks)
        answer(tasks)


def _row(task: Task) -> tuple[str, str]:
    assert task.waits_for is not None
    pool, job_id = task.waits_for
    return pool, job_id or ""
