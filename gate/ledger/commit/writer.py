"""The writer: one thread that takes what is handed in and commits it in groups.

A batch runs in one order (pool, then job_id), so that two servers never lock crosswise. When it fails, it is rolled back and
replayed one by one: each request answers for itself, and a replay that finds its own outcome already there has succeeded.

Somebody may hold a row (a terminal in a transaction, a server that stands still): a pool's, and all its requests have to wait;
a job's, and only those about it. They are set aside, asked again beside what comes, and let go in the end. Nobody else waits
for more than the first look at that row.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Iterable

from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from gate.ledger.commit.group_commit import GroupCommitter, Locked, Task, Unreached, answer
from gate.model.errors import StoreDown

BATCH_MAX = 256
"""Requests in one commit: beyond it the first of a batch waits longer than the commit saves."""
LOCK_TIMEOUT_MS = 1_000
"""How long a batch waits for a row, on Postgres: other servers hold a pool's for the time of a commit."""
LOCK_AGAIN_MS = 50
"""The same for one that was found held."""
AGAIN_S = 0.05
"""How soon it is tried again when nothing else comes."""
SET_ASIDE_S = 5.0
"""How long a request waits for a row in all."""


class Writer:
    def __init__(self, engine: Engine) -> None:
        self._committer = GroupCommitter(engine)
        self._behind = 0
        self._tasks: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self.writable = True
        """False from the first thing that it did not take, for whatever reason but its own content, until something has been
        committed that proves the contrary. A store that answers may still take nothing: it is read only, or full."""
        self.since: float | None = None
        """By time.monotonic(), when the batch under way began."""
        self.took_s = 0.0
        """How long the last one took."""
        self.held: frozenset[str] = frozenset()
        """Pools whose row somebody else holds."""
        self._thread = threading.Thread(target=self._run, name="gate-sql-write", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anybody who was handed in has not been answered yet."""
        return self._behind > 0

    def put(self, tasks: list[Task]) -> None:
        """On the loop that hears of them."""
        self._behind += len(tasks)
        self._tasks.put(tasks)

    def close(self) -> None:
        """Commits what was handed in, then ends."""
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
        """What is there, at least one; nothing after `wait_s`. And whether there will be more."""
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
        """Those whose rows are free in one commit; then, for each row that is held, those who wait for it."""
        rows = {task.waits_for: task.refusal for task in aside}
        first = []
        for task in fresh:
            row = next((row for row in ((task.key[0], None), task.key) if row in rows), None)
            if row is None:
                first.append(task)
            else:
                task.waits_for = row
        waiting = [task for task in fresh + aside if task.waits_for]
        self._attempt(first, LOCK_TIMEOUT_MS)
        for _, group in itertools.groupby(sorted(waiting, key=_row), key=_row):
            self._attempt(list(group), LOCK_AGAIN_MS)

    def _attempt(self, tasks: list[Task], lock_ms: int) -> None:
        """All in one; failing that, one by one. A store that is not even reached fails all at once: nobody waits in turn."""
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
        except IntegrityError:  # another server wrote the same job, in another pool, since this looked: look again
            self._commit([task], LOCK_AGAIN_MS)

    def _commit(self, tasks: list[Task], lock_ms: int) -> None:
        try:
            self._committer.commit(tasks, lock_ms)
        except Locked:
            if lock_ms == LOCK_TIMEOUT_MS:  # at the first look it may be a whole table
                self.writable = False
            raise
        except StoreDown:  # guard: failed-commit-shows-sql-down
            self.writable = False
            raise
        self.committed(tasks)

    def committed(self, tasks: Iterable[Task]) -> None:
        """What that says of the store."""
        self.writable = self.writable or any(task.proves for task in tasks)

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
        self._behind -= len(tasks)
        answer(tasks)


def _row(task: Task) -> tuple[str, str]:
    assert task.waits_for is not None
    pool, job_id = task.waits_for
    return pool, job_id or ""
