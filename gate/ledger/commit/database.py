"""The connection to SQL: one writer that commits in groups, a few readers, SQLite or Postgres.

Many requests share one commit. So work given to `write` must be repeatable, and must refuse by a return value, not by an
exception.

No caller waits without limit:

- When SQL cannot be reached, the whole batch fails at once.
- When another transaction holds a row, only the requests that need this row fail.
- When the answer does not come, the caller gets StoreDown. The change may still be committed afterwards. A repeat of the
call, or
  the reconciler, finds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection

from gate.ledger.commit.checkpoints import Checkpoints
from gate.ledger.commit.group_commit import Task
from gate.ledger.commit.inline_commit import InlineCommitter
from gate.ledger.commit.readers import ANSWER_S, Readers, Replica, let_go
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.commit.writer import Writer
from gate.ledger.sql.engines import engine, has_room, replica
from gate.model.job import now_ms
from gate.model.time_limit import limit

T = TypeVar("T")

HANGS_S = 2.5
"""Age of a running batch (s) from which SQL counts as not writable."""


class Database:
    """SQL, with one thread that writes and a few that read. On SQLite the event loop itself commits small batches.

    Attributes:
        url: Its address.
        reports: Runs the queries that may be some moments behind: on a replica when there is one.
    """

    def __init__(self, url: str, clock: Callable[[str], int] = lambda pool: now_ms(), replica_url: str | None = None) -> None:
        """Create the engines and start the writer. No connection is opened yet.

        Args:
            url: Address of the database, `sqlite:///FILE` or `postgresql://…`.
            clock: Says what the clock of a pool shows (ms since 1970), for the times of its jobs; by default what this machine's shows.
            replica_url: Address of a replica that runs the queries of reports; None for none.

        Raises:
            ArgumentError: SQLAlchemy cannot parse an address, or it names another kind of database.
        """
        self.url = url
        lives_in: set[int] = set()
        self._write_engine = engine(url, writes=True, in_batches=True, lives_in=lives_in)
        self._readers = Readers(engine(url, writes=False, lives_in=lives_in))
        self._replica = Replica(replica(replica_url), self._readers) if replica_url is not None else None
        self.reports: Readers | Replica = self._replica or self._readers
        self._writer = Writer(self._write_engine, clock)
        self._at_once: InlineCommitter | None = None
        if self._write_engine.dialect.name == "sqlite":
            at_once = engine(
                url,
                writes=True,
                in_batches=True,
                waits=False,  # guard: loop-waits-for-no-lock
                lives_in=lives_in,
            )
            self._at_once = InlineCommitter(at_once, clock, self._writer, Checkpoints(self._write_engine))
        self._unsent: list[Task] = []

    @property
    def writable(self) -> bool:
        """Whether SQL took the last write, as far as is known."""
        return self._writer.writable

    @property
    def hangs(self) -> bool:
        """Whether a batch has been running for longer than HANGS_S."""
        since = self._writer.since
        return since is not None and time.monotonic() - since > HANGS_S

    @property
    def idle_s(self) -> float:
        """Time since the last commit that wrote (s)."""
        return time.monotonic() - self._writer.wrote_at

    @property
    def has_room(self) -> bool:
        """Whether the SQLite file may be written and its disk is not nearly full, as far as the system tells.

        It does not tell of a quota. On Postgres this is False, since the disk is out of sight.
        """
        return self._at_once is not None and has_room(self._write_engine)

    def held(self, pool: str) -> bool:
        """Return whether a transaction outside this process holds the row of the pool."""
        return pool in self._writer.held

    async def write(
        self, pool: str, job_id: str, work: Callable[[UnitOfWork], T], proves: bool = False, takes_long: bool = False
    ) -> T:
        """Run a change in the next batch, and return after its commit.

        A caller that is cancelled does not take the change back. The writer may commit it all the same.

        Args:
            pool: Pool whose row the change locks; empty for none.
            job_id: The job that it reads; empty when that is not known.
            work: The change. It may run more than once, and only its last result counts.
            proves: A commit of this change shows that SQL takes every kind of write again.
            takes_long: It reads or writes very much, so it must not run on the event loop.

        Returns:
            What `work` returned.

        Raises:
            StoreDown: SQL cannot take the change, or has not answered within ANSWER_S.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = Task((pool, job_id), work, loop, answer, proves, takes_long)
        limit(answer, ANSWER_S, partial(let_go, answer, ANSWER_S))  # guard: caller-leaves-a-hanging-sql
        if not self._unsent:
            loop.call_soon(loop.call_soon, self._hand_in)
        self._unsent.append(task)
        return await answer

    def _hand_in(self) -> None:
        """Commit what two turns of the event loop have collected. One commit costs more than many rows."""
        unsent, self._unsent = self._unsent, []
        if not unsent:
            return
        if self._at_once is None or not self._at_once.take(unsent):
            self._writer.put(unsent)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a query that needs the newest state, on a read-only connection, in a thread.

        Args:
            work: The query.

        Returns:
            What `work` returned.

        Raises:
            StoreDown: SQL does not answer, or not within ANSWER_S.
        """
        return await self._readers.read(work)

    def close(self) -> None:
        """Commit what was given to `write`, then close all connections."""
        self._hand_in()
        self._writer.close()
        if self._at_once is not None:
            self._at_once.close()
        if self._replica is not None:
            self._replica.close()
        self._readers.close()
        self._write_engine.dispose()
