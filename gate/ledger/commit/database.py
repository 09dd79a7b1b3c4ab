"""The engine room of SQL: one writer that commits in groups, a few readers, SQLite or Postgres.

Many requests, one commit. So work handed in here must be repeatable, and says no by returning, not by raising.

Nobody waits for ever: a store that is not reached fails a whole batch at once, a row that somebody holds fails those who wait
for it, and a caller whose answer hangs is let go. What he asked for may be committed after that; a repeat of his call, or the
sweep, finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from gate.ledger.commit.checkpoints import Checkpoints
from gate.ledger.commit.group_commit import Task
from gate.ledger.commit.inline_commit import InlineCommitter
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.commit.writer import Writer
from gate.ledger.sql.engines import READERS, answering, engine
from gate.model.deadline_queue import DeadlineQueue
from gate.model.errors import StoreDown

T = TypeVar("T")

ANSWER_S = 6.0
"""How long a caller waits for SQL: longer than any lock or time-out there, and short enough to be told so within the grace of a
stop."""
HANGS_S = 2.5
"""A batch under way for so long: SQL cannot be written at the moment."""


class Database:
    """SQL, reached by one thread that writes and a few that read. `url` as people write it: `sqlite:///FILE`, `postgresql://…`."""

    def __init__(self, url: str) -> None:
        self.url = url
        lives_in: set[int] = set()
        self._write_engine = engine(url, writes=True, in_batches=True, lives_in=lives_in)
        self._read_engine = engine(url, writes=False, lives_in=lives_in)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gate-sql-read")
        self._writer = Writer(self._write_engine)
        self._at_once: InlineCommitter | None = None
        if self._write_engine.dialect.name == "sqlite":
            at_once = engine(
                url,
                writes=True,
                in_batches=True,
                waits=False,  # guard: loop-waits-for-no-lock
                lives_in=lives_in,
            )
            self._at_once = InlineCommitter(at_once, self._writer, Checkpoints(self._write_engine))
        self._patience = DeadlineQueue(ANSWER_S, _let_go)
        self._unsent: list[Task] = []

    @property
    def writable(self) -> bool:
        """Whether the store takes what gate writes, as far as anybody knows."""
        return self._writer.writable

    @property
    def hangs(self) -> bool:
        """Whether a write is under way that should have ended long ago."""
        since = self._writer.since
        return since is not None and time.monotonic() - since > HANGS_S

    def held(self, pool: str) -> bool:
        """Whether somebody else holds the row of this pool."""
        return pool in self._writer.held

    async def write(
        self, pool: str, job_id: str, work: Callable[[UnitOfWork], T], proves: bool = False, takes_long: bool = False
    ) -> T:
        """What `work` returned, once it is committed. Raises StoreDown when SQL can't take it. `proves`: if this was committed,
        the store takes everything again. `takes_long`: it reads or writes very much.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = Task((pool, job_id), work, loop, answer, proves, takes_long)
        self._patience.watch(task.future)  # guard: caller-leaves-a-hanging-sql
        if not self._unsent:
            loop.call_soon(loop.call_soon, self._hand_in)
        self._unsent.append(task)
        # A caller that goes away does not take back what the writer is about to commit: it only does not hear of it.
        return await answer

    def _hand_in(self) -> None:
        """All of two turns of the loop at once: a commit costs more than many rows."""
        unsent, self._unsent = self._unsent, []
        if not unsent:
            return
        if self._at_once is None or not self._at_once.take(unsent):
            self._writer.put(unsent)

    async def read(self, work: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                with answering(), self._read_engine.connect() as connection:
                    found, error = work(connection), None
            except BaseException as failed:
                found, error = None, failed
            with contextlib.suppress(RuntimeError):  # the loop has gone, and whoever asked
                loop.call_soon_threadsafe(_settle, answer, found, error)

        self._patience.watch(answer)
        self._readers.submit(run)
        return await answer

    def close(self) -> None:
        """Commits what was handed in, then closes."""
        self._hand_in()
        self._writer.close()
        if self._at_once is not None:
            self._at_once.close()
        self._patience.stop()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()


def _settle(answer: asyncio.Future[Any], found: Any, error: BaseException | None) -> None:
    if answer.done():
        return  # he was let go, or went
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)


def _let_go(answer: asyncio.Future[Any]) -> None:
    answer.set_exception(StoreDown("sql", f"SQL has not answered for {ANSWER_S:g} s"))
