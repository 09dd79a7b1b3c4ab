"""Replay of the whole history in SQL, for the invariants I4, I5, I6 and I8. A part of `gate verify`.

The replay keeps the jobs that are live at the event that it has reached, and forgets each at its end. So its memory does not
grow with the number of jobs. Order and uniqueness of fences are about all jobs together. They are written to a temporary file
of SQLite, and read back in the order of fences.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.diagnostics.breach import Breach

AT_A_TIME = 5_000
"""Events in one page. The jobs of a page are read by one query."""
ENDS = ("cancelled", "completed", "expired", "failed")
"""Kinds of events that end a job."""
LEAVES = (*ENDS, "queued")
"""Kinds of events after which a job holds no slot."""
GRANTS = ("granted", "running")
"""Kinds of events that name the fence of a grant."""
OUT_OF_TURN = ("seated", "passed", "returned")
"""Kinds of events after which a job may be granted after later ones: its place was lost, its caller absent, or SQL refused it."""
TOOL_DOWN_MS = 60_000
"""Longest time (ms) for which one failure of a start address keeps a tool's jobs back."""
FENCES_OF_EPOCH = 2**32
"""Fences that each life of a pool in Redis has: they start at epoch · 2³²."""


@dataclass(slots=True)
class _LiveJob:
    """A job between its first event and its end.

    Attributes:
        ticket, tool: Ticket and tool in SQL.
        has_ended: Whether it has ended in SQL, and its history is not pruned. Then an event has to say so.
        waits: By its events it waits.
        holds: By its events it holds a slot.
        returned: Its order among the others does not count.
        fence: The newest fence; 0 before the first grant.
    """

    pool: str
    ticket: int
    tool: str | None
    has_ended: bool
    waits: bool = False
    holds: bool = False
    returned: bool = False
    fence: int = 0


@dataclass(slots=True)
class _PoolState:
    """A pool at the event that the replay has reached.

    Attributes:
        number: Number of the pool in the file of grants.
        limit: Limit in force.
        in_use: Number of jobs that hold a slot.
        down_until: When a failing tool is tried again (ms since 1970).
    """

    number: int
    limit: int = 0
    in_use: int = 0
    down_until: dict[str, int] = field(default_factory=dict)


class _Pools(dict[str, _PoolState]):
    """The state of each pool. Events may name a pool that was deleted."""

    def __missing__(self, pool: str) -> _PoolState:
        return self.setdefault(pool, _PoolState(len(self)))


class _Grants:
    """A temporary file with the fence of each grant. SQLite deletes it when it is closed."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = off", "synchronous = off", "cache_size = -8192"):
            self._file.execute(f"pragma {pragma}")
        self._file.execute(
            "create table grants (pool integer, fence integer, event integer, ticket integer, job text,"
            " primary key (pool, fence, event)) without rowid"
        )
        self._rows: list[tuple[int, int, int, int | None, str]] = []

    def add(self, pool: int, fence: int, event: int, ticket: int | None, job: str) -> None:
        """Note a grant. `ticket` is None where the order among the others does not count."""
        self._rows.append((pool, fence, event, ticket, job))

    def flush(self) -> None:
        """Write what was noted."""
        self._file.executemany("insert into grants values (?, ?, ?, ?, ?)", self._rows)
        self._rows.clear()

    def breaches(self) -> Iterator[Breach]:
        """Yield the grants that share a fence with another job, and the first grants that do not follow the tickets.

        Grants before a load of the pool are not compared with those after it. A grant that was lost with Redis, before SQL had it, was the
        turn of its job, and later jobs may have been granted beside it.
        """
        self.flush()
        before, highest, first = (-1, 0), (0, ""), ""
        for pool, fence, _, ticket, job in self._file.execute("select * from grants order by pool, fence, event"):
            if (pool, fence // FENCES_OF_EPOCH) != (before[0], before[1] // FENCES_OF_EPOCH):
                highest = (0, "")
            if (pool, fence) != before:
                before, first = (pool, fence), job
            elif job != first:
                yield Breach("I8", job, f"fence {fence} again, after that of {first}")
            if ticket is not None:
                if ticket < highest[0]:
                    yield Breach("I6", job, f"ticket {ticket}, granted after ticket {highest[0]} of {highest[1]}")
                highest = max(highest, (ticket, job))

    def close(self) -> None:
        self._file.close()


def replay(sql: Connection, at: str, passed: Callable[[int], None]) -> list[Breach]:
    """Replay all events, the oldest first.

    A job that was ended by hand has no event of its end, and would count as a holder for ever. Which jobs these are is known
    after the replay alone. So it is made again without them, which happens only if there are any.

    Args:
        sql: A connection to the ledger.
        at: Prefix of the names of tables.
        passed: Called with the number of events so far, after each page.

    Returns:
        The breaches of I4, I5 (of events), I6 and I8.
    """
    first = _Replay(sql, at, ())
    found, by_hand = first.run(passed), first.without_end()
    if by_hand:
        found = _Replay(sql, at, by_hand.keys()).run(passed)
    if _ended(sql, at) != first.ended:
        by_hand |= _without_history(sql, at)
    return found + [
        Breach("I4", job, f"{status} in SQL, and its history does not say so: ended by hand?")
        for job, status in by_hand.items()
    ]


def _ended(sql: Connection, at: str) -> int:
    """Count the jobs that have ended and were not pruned. If the replay met as many, each of them has a history."""
    query = f"select count(*) from {at}jobs where ended_at is not null and pruned_at is null"
    return int(sql.execute(sa.text(query)).scalar_one())


def _pages(sql: Connection, query: str) -> Iterator[list[Any]]:
    """Run a query on the driver's own cursor, and yield its rows in pages. SQLAlchemy's rows would take twice the time."""
    driver: Any = sql.connection.dbapi_connection
    name = {} if sql.dialect.name == "sqlite" else {"name": "gate_verify"}  # of a cursor that stays in Postgres
    with contextlib.closing(driver.cursor(**name)) as cursor:
        cursor.execute(query)
        while page := cursor.fetchmany(AT_A_TIME):
            yield page


def _without_history(sql: Connection, at: str) -> dict[str, str]:
    """Return the status of each job that has ended, was not pruned, and has no event at all."""
    query = f"""select j.job_id, j.status from {at}jobs j where j.ended_at is not null and j.pruned_at is null
        and not exists (select 1 from {at}events e where e.job_id = j.job_id)"""
    return {job: status for job, status in sql.execute(sa.text(query))}


class _Replay:
    """One pass over all events."""

    def __init__(self, sql: Connection, at: str, by_hand: Collection[str]) -> None:
        self._sql, self._at, self._by_hand = sql, at, by_hand
        self._pools, self._grants = _Pools(), _Grants()
        self._live: dict[str, _LiveJob] = {}
        self._over: dict[str, _LiveJob] = {}
        """Jobs that an event of this page names, and whose end the replay has passed."""
        self.ended = 0
        """Jobs that the replay met, and that have ended in SQL and were not pruned."""
        self._found: list[Breach] = []

    def run(self, passed: Callable[[int], None]) -> list[Breach]:
        """Read all events by one query, in pages, and return the breaches."""
        query = f"select id, at, pool, job_id, kind, fence, why from {self._at}events order by id"
        count = 0
        try:
            for page in _pages(self._sql, query):
                self._over.clear()
                self._meet(page)
                for event in page:
                    self._apply(*event)
                self._grants.flush()
                count += len(page)
                passed(count)
            return self._found + list(self._grants.breaches())
        finally:
            self._grants.close()

    def without_end(self) -> dict[str, str]:
        """Return the status of each job that has ended in SQL although no event says so. Call this after `run`."""
        left = [job for job, one in self._live.items() if one.has_ended]
        query = f"""select j.job_id, j.status from {self._at}jobs j where j.job_id {self._given} and not exists
            (select 1 from {self._at}events e where e.job_id = j.job_id and e.kind in {ENDS})"""
        found: dict[str, str] = {}
        for first in range(0, len(left), AT_A_TIME):  # one that ended while the events were read has its event by now
            found |= {job: status for job, status in self._of(query, left[first : first + AT_A_TIME])}
        return found

    @property
    def _given(self) -> str:
        """SQL that compares with a list of job_ids, which is a parameter of the query."""
        return "= any(:given)" if self._at else "in (select value from json_each(:given))"

    def _of(self, query: str, job_ids: Collection[str], **values: int) -> Sequence[Any]:
        given = sorted(job_ids)
        return self._sql.execute(sa.text(query), {"given": given if self._at else json.dumps(given), **values}).all()

    def _meet(self, page: Sequence[Any]) -> None:
        """Read the jobs that events of a page name and that are not live: new ones, and those whose end is passed."""
        unknown = {event[3]: event for event in reversed(page) if event[3] is not None and event[3] not in self._live}
        if not unknown:
            return
        query = f"select job_id, pool, ticket, tool, ended_at, pruned_at from {self._at}jobs where job_id {self._given}"
        late = set()
        for job, pool, ticket, tool, ended_at, pruned_at in self._of(query, unknown):
            self._live[job] = _LiveJob(pool, ticket, tool, ended_at is not None and pruned_at is None)
            _, at, _, _, kind, _, _ = unknown[job]
            if ended_at is not None and at >= ended_at and kind not in ENDS:
                late.add(job)
        query = f"""select job_id, max(case when kind in {GRANTS} then fence end) from {self._at}events
            where job_id {self._given} and id < :first group by job_id"""
        for job, fence in self._of(query, late, first=page[0][0]) if late else ():
            self._over[job] = self._live.pop(job)
            self._over[job].fence = fence or 0
        self.ended += sum(self._live[job].has_ended for job in unknown if job in self._live)
        for job in sorted(unknown.keys() - self._live.keys() - self._over.keys()):
            self._live[job] = _LiveJob(unknown[job][2], 0, None, False)
            self._found.append(Breach("I5", job, "events names it, jobs does not"))

    def _apply(
        self, event: int, at: int, name: str, job_id: str | None, kind: str, fence: int | None, why: str | None
    ) -> None:
        pool = self._pools[name]
        if kind == "limit":
            pool.limit = int(why or 0)
        elif kind == "tool_down":
            self._tool_down(name, pool, at, why or "")
        elif job_id is not None and (job := self._known(job_id, kind)) is not None:
            if kind in GRANTS:
                self._grant(event, job_id, job, pool, fence or 0)
            elif kind in LEAVES:
                pool.in_use -= job.holds
                job.holds = False
            elif kind == "returned" and not job.fence and not job.returned:
                # SQL refused this grant: the job had its turn, and has its place again.
                self._grants.add(pool.number, fence or 0, event, job.ticket, job_id)
            if kind in ENDS:
                self._over[job_id] = self._live.pop(job_id)
            elif kind == "queued":
                job.waits = True
                job.returned = job.returned or (pool.down_until.get(job.tool or "", 0) > at and not job.fence)
            elif kind != "passed":
                job.waits = False
            if kind in OUT_OF_TURN and not job.fence:
                job.returned = True

    def _known(self, job_id: str, kind: str) -> _LiveJob | None:
        """Return a job that is live. One whose end is passed becomes live again by an event that a live job alone can have."""
        if (job := self._live.get(job_id)) is None and kind in ("queued", *GRANTS):
            job = self._live[job_id] = self._over.pop(job_id)
        return job

    def _tool_down(self, name: str, pool: _PoolState, at: int, tool: str) -> None:
        """Let the order of a tool's waiters not count: gate cannot start them now."""
        pool.down_until[tool] = at + TOOL_DOWN_MS
        for one in self._live.values():
            if one.waits and one.tool == tool and one.pool == name and not one.fence:
                one.returned = True

    def _grant(self, event: int, job_id: str, job: _LiveJob, pool: _PoolState, fence: int) -> None:
        if not job.holds and job_id not in self._by_hand:
            job.holds = True
            pool.in_use += 1
            if pool.in_use > pool.limit:
                says = f"{pool.in_use} slots in use, limit {pool.limit}"
                self._found.append(Breach("I4", f"{job.pool} event {event}", says))
        if fence != job.fence:
            if fence < job.fence:
                self._found.append(Breach("I8", job_id, f"fence {fence} again, after {job.fence}"))
            counts = not job.fence and not job.returned
            self._grants.add(pool.number, fence, event, job.ticket if counts else None, job_id)
            job.fence = fence
