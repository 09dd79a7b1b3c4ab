"""Reads the invariants I1-I9 from the two stores. Shares no code with what writes them, so that it can't be wrong with it.

It may run while gate serves: a finding counts as a breach only when it is still there two seconds later.

    I1  at most one refund a job
    I2  failed, cancelled or expired with credits <=> a refund of exactly the charge, or owed
    I3  each job with credits has one charge of that amount
    I4  slots in use were never above the limit in force, by the events; each end of a job is one of them
    I5  each job that the events or the ledger name is there
    I6  first grants follow tickets, but for jobs whose place in Redis was lost and given back, and for those that gate could not
        start because their tool's start address failed
    I7  no free slot beside a waiter, unless the pool is paused or cooling, or the tool of that job is
    I8  fences of grants are unique in a pool, and increase for each job
    I9  each member of slots and queue is a job live in SQL, a slot under its lease, and has an entry in jobs
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.model.errors import CannotStart

STAYS_S = 2.0
AT_A_TIME = 1_000
"""Events between two words on how far it is."""
ENDS = frozenset({"completed", "failed", "cancelled", "expired"})
LEAVES = ENDS | {"queued"}
"""What happens to a job that holds no slot after it."""
TOOL_DOWN_MS = 60_000
"""Longest time (ms) for which one failure of a start address keeps a tool's jobs back."""
UNRECORDED_MS = 40_000
"""A grant younger than this may not be in SQL yet."""


@dataclass(frozen=True, slots=True)
class Breach:
    invariant: str
    about: str
    finding: str


@dataclass(slots=True)
class Report:
    """`checked` counts what was looked at; without Redis only SQL was."""

    breaches: list[Breach] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    redis_checked: bool = False


Progress = Callable[[int, int], None]


def verify(sql_url: str, redis_url: str | None, progress: Progress = lambda done, whole: None) -> Report:
    """`progress` is told the events read, of how many. Raises CannotStart when a store can't be read."""
    try:
        report = _look(sql_url, redis_url, progress)
        if report.breaches:
            time.sleep(STAYS_S)
            again = _look(sql_url, redis_url, progress)
            stayed = {(breach.invariant, breach.about) for breach in again.breaches}
            first = {(breach.invariant, breach.about) for breach in report.breaches}
            again.breaches = [b for b in again.breaches if (b.invariant, b.about) in stayed & first]
            report = again
    except (sa.exc.SQLAlchemyError, redis.RedisError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CannotStart(f"a store cannot be read: {line}") from error
    return report


def _look(sql_url: str, redis_url: str | None, progress: Progress) -> Report:
    report = Report(redis_checked=redis_url is not None)
    url = sa.make_url(sql_url)
    sqlite = url.get_backend_name() == "sqlite"
    driver, options = ("sqlite+pysqlite", {}) if sqlite else ("postgresql+psycopg", {"client_encoding": "utf8"})
    engine = sa.create_engine(url.set(drivername=driver), connect_args=options)
    at = "" if sqlite else "gate."
    with engine.connect() as sql:
        pools = [row.name for row in sql.execute(sa.text(f"select name from {at}pools order by name"))]
        # Redis first: a job is in SQL before anybody is told, so what Redis shows SQL must show a moment later.
        seen = {pool: _pool_in_redis(redis_url, pool) for pool in pools} if redis_url else {}
        report.breaches += _money(sql, at)
        report.breaches += _orphans(sql, at)
        whole = sql.execute(sa.text(f"select count(*) from {at}events")).scalar_one()
        seen_so_far = count(1)
        for pool in pools:
            report.breaches += _history(sql, at, pool, lambda: progress(next(seen_so_far) * AT_A_TIME, whole))
        for pool, state in seen.items():
            report.breaches += _members(sql, at, pool, state)
        for name in ("jobs", "ledger", "events"):
            report.checked[name] = sql.execute(sa.text(f"select count(*) from {at}{name}")).scalar_one()
        report.checked["pools"] = len(pools)
    engine.dispose()
    return report


def _money(sql: Connection, at: str) -> Iterator[Breach]:
    twice = f"select job_id, count(*) n from {at}ledger where kind = 'refund' group by job_id having count(*) > 1"
    for row in sql.execute(sa.text(twice)):
        yield Breach("I1", row.job_id, f"{row.n} refunds")
    refunds = f"""select j.job_id, j.status, j.credits, r.amount, o.amount as owed from {at}jobs j
        left join {at}ledger r on r.job_id = j.job_id and r.kind = 'refund'
        left join {at}owed o on o.job_id = j.job_id
        where (case when j.status in ('failed', 'cancelled', 'expired') then j.credits else 0 end)
              <> coalesce(r.amount, 0) + coalesce(o.amount, 0)
           or (r.amount is not null and o.amount is not null)"""
    for row in sql.execute(sa.text(refunds)):
        yield Breach(
            "I2", row.job_id, f"{row.status} with {row.credits} credits, refunded {row.amount or 0}, owed {row.owed or 0}"
        )
    charges = f"""select j.job_id, j.credits, count(c.id) n, coalesce(sum(c.amount), 0) total from {at}jobs j
        left join {at}ledger c on c.job_id = j.job_id and c.kind = 'charge'
        group by j.job_id, j.credits
        having coalesce(sum(c.amount), 0) <> j.credits or count(c.id) > 1"""
    for row in sql.execute(sa.text(charges)):
        yield Breach("I3", row.job_id, f"{row.credits} credits, {row.n} charges of {row.total}")


def _orphans(sql: Connection, at: str) -> Iterator[Breach]:
    for table in ("ledger", "events"):
        query = f"""select distinct t.job_id from {at}{table} t left join {at}jobs j on j.job_id = t.job_id
            where t.job_id is not null and j.job_id is null"""
        for row in sql.execute(sa.text(query)):
            yield Breach("I5", row.job_id, f"{table} names it, jobs does not")


def _history(sql: Connection, at: str, pool: str, passed: Callable[[], None]) -> Iterator[Breach]:
    """Plays the events of a pool from its first; `passed` is called after each AT_A_TIME of them."""
    events = sql.execute(
        sa.text(f"select id, at, job_id, kind, fence, why from {at}events where pool = :pool order by id"),
        {"pool": pool},
    )
    jobs = sql.execute(
        sa.text(f"select job_id, ticket, tool, status, ended_at, pruned_at from {at}jobs where pool = :pool"), {"pool": pool}
    ).all()
    tickets, tools = {row.job_id: row.ticket for row in jobs}, {row.job_id: row.tool for row in jobs}
    waiting: set[str] = set()
    down_until: dict[str, int] = {}
    said = sa.text(f"select distinct job_id from {at}events where pool = :pool and kind in {tuple(sorted(ENDS))}")
    told = {row.job_id for row in sql.execute(said, {"pool": pool})}
    unsaid = {
        row.job_id: row.status
        for row in jobs
        if row.ended_at is not None and row.pruned_at is None and row.job_id not in told
    }
    for job, status in unsaid.items():
        yield Breach("I4", job, f"{status} in SQL, and its history does not say so: ended by hand?")
    limit, in_use, returned = 0, set(), set()
    fences: dict[int, str] = {}
    last_fence: dict[str, int] = {}
    first_grants: list[tuple[int, str]] = []
    for number, event in enumerate(events, 1):
        if number % AT_A_TIME == 0:
            passed()
        job = event.job_id
        if event.kind == "queued":
            waiting.add(job)
            if down_until.get(tools.get(job) or "", 0) > event.at and job not in last_fence:
                returned.add(job)
        elif job is not None and event.kind != "tool_down":
            waiting.discard(job)
        if event.kind == "limit":
            limit = int(event.why)
        elif event.kind == "tool_down":
            down_until[event.why] = event.at + TOOL_DOWN_MS
            returned.update(one for one in waiting if tools.get(one) == event.why and one not in last_fence)
        elif event.kind == "seated":  # its place was lost for a while: nobody can say who was before whom
            if job not in last_fence:
                returned.add(job)
        elif event.kind == "returned":  # a grant that SQL would not take: it had its turn, and has its place again
            if job not in last_fence and job not in returned:
                first_grants.append((event.fence, job))
                returned.add(job)
        elif event.kind in ("granted", "running"):
            if job not in in_use and job not in unsaid:
                in_use.add(job)
                if len(in_use) > limit:
                    yield Breach("I4", f"{pool} event {event.id}", f"{len(in_use)} slots in use, limit {limit}")
            if event.fence != last_fence.get(job):
                if fences.setdefault(event.fence, job) != job or event.fence < last_fence.get(job, 0):
                    yield Breach("I8", job, f"fence {event.fence} again, after {last_fence.get(job)}")
                if job not in last_fence and job not in returned:
                    first_grants.append((event.fence, job))
                last_fence[job] = event.fence
        elif event.kind in LEAVES:
            in_use.discard(job)
    highest = (0, "")
    for _, job in sorted(first_grants):
        ticket = tickets.get(job, 0)
        if ticket < highest[0]:
            yield Breach("I6", job, f"ticket {ticket}, granted after ticket {highest[0]} of {highest[1]}")
        highest = max(highest, (ticket, job))


@dataclass(frozen=True, slots=True)
class _Seen:
    now_ms: int
    slots: list[str]
    queue: list[str]
    entries: dict[str, dict[str, Any] | None]
    meta: dict[str, str]


def _pool_in_redis(url: str, pool: str) -> _Seen:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        key = f"gate:{{{pool}}}:"
        with client.pipeline(transaction=True) as asked:
            asked.time()
            asked.zrange(key + "slots", 0, -1)
            asked.lrange(key + "queue", 0, -1)
            asked.hgetall(key + "jobs")
            asked.hgetall(key + "meta")
            (seconds, micros), slots, queue, entries, meta = asked.execute()
    return _Seen(
        seconds * 1000 + micros // 1000,
        slots,
        queue,
        {job: _entry(raw) for job, raw in entries.items()},
        meta,
    )


def _entry(raw: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _tool_cools(seen: _Seen, entry: dict[str, Any] | None) -> bool:
    """Whether gate starts this job, and its tool's start address failed a moment ago."""
    if entry is None or not entry.get("by_gate"):
        return False
    until = seen.meta.get(f"cool:{entry.get('tool')}", "0").split(" ")[0]
    return until.isdigit() and int(until) > seen.now_ms


def _members(sql: Connection, at: str, pool: str, seen: _Seen) -> Iterator[Breach]:
    rows = {
        row.job_id: row
        for row in sql.execute(
            sa.text(f"select job_id, status, lease_id from {at}jobs where pool = :pool and ended_at is null"),
            {"pool": pool},
        )
    }
    cooling = int(float(seen.meta.get("cooling_until", 0))) > seen.now_ms
    held_back = cooling or seen.meta.get("paused") == "1"
    waits = [job for job in seen.queue if not _tool_cools(seen, seen.entries.get(job))]
    if waits and len(seen.slots) < int(seen.meta.get("limit", 0)) and not held_back:
        yield Breach("I7", pool, f"{len(waits)} wait beside a free slot")
    places: defaultdict[str, int] = defaultdict(int)
    for job in [*seen.slots, *seen.queue]:
        places[job] += 1
        if places[job] > 1:
            yield Breach("I9", job, "it has two places in Redis")
    for job in seen.slots:
        entry, row = seen.entries.get(job), rows.get(job)
        if entry is None:
            yield Breach("I9", job, "it holds a slot without an entry in jobs")
        elif seen.now_ms - entry.get("granted_at", 0) > UNRECORDED_MS and (
            row is None or row.lease_id != entry.get("lease_id")
        ):
            yield Breach("I9", job, "it holds a slot that SQL knows nothing of")
    for job in seen.queue:
        if seen.entries.get(job) is None:
            yield Breach("I9", job, "it waits without an entry in jobs")
        elif job not in rows:
            yield Breach("I9", job, "it waits, and is not live in SQL")
    for job in rows.keys() - places.keys():
        yield Breach("I9", job, f"{rows[job].status} in SQL, nowhere in Redis")
