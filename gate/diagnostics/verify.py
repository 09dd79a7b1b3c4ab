"""Checks of the invariants I1-I9 in the two stores.

This module shares no code with the writers of the stores, so that it cannot repeat their faults. It may run while gate
serves. A finding counts as a breach only if it is still there two seconds later.

    I1  at most one refund a job
    I2  failed, cancelled or expired with credits <=> a refund of exactly the charge, or owed. A job that was admitted under
        `until_started`, and that its holder, its caller or an operator cancelled while it ran, has none
    I3  each job with credits has one charge of that amount
    I4  by the events, slots in use were never above the limit in force; each end of a job has an event
    I5  each job that the events or the ledger name exists
    I6  first grants follow tickets, except for jobs whose place in Redis was lost and restored, jobs that gate could not start
        because their tool's start address failed, and jobs that were passed while their callers were absent
    I7  no slot is free while a job waits, unless the pool is paused or cools down, the tool of that job is down, its caller is
        absent, or the job is refused again and again beside others that start
    I8  fences of grants are unique in a pool, and increase for each job
    I9  each member of slots and queue is live in SQL and has an entry in jobs; each slot is held under the lease that SQL has
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.diagnostics import redis_primaries
from gate.diagnostics.breach import Breach as Breach
from gate.diagnostics.history import replay
from gate.model.errors import CannotStart
from gate.model.store_url import primary_of_several

STAYS_S = 2.0
"""Time (s) for which a finding has to stay. A change that is under way is in both stores by then."""
ANSWER_S = 10.0
"""How long to wait for an answer of Redis (s)."""
ANSWERS_SOON: dict[str, Any] = {"client_encoding": "utf8", "connect_timeout": 5, "tcp_user_timeout": 10_000}
"""How to connect to Postgres, so that a host that is gone is noticed. The units are those of libpq: s and ms."""
AT_A_TIME = 1_000
"""Keys of Redis that one look asks for."""
SQLITE_CACHE_KB = 65_536
"""Pages (KB) that SQLite keeps for the check. With its default of 2 MB each look into an index of a long table is a read."""
POOL_OF = re.compile(r"gate:\{(.*)\}:meta", re.DOTALL)
"""Key of a pool in Redis."""
UNRECORDED_MS = 40_000
"""A grant younger than this may not be in SQL yet."""


@dataclass(slots=True)
class Report:
    """Result of a check.

    Attributes:
        breaches: The breaches.
        checked: Number of rows that were checked, by table.
        redis_checked: Whether Redis was checked too, or SQL alone.
        sql_checked: Whether SQL was checked too, or Redis alone: I7, and that each member has one place and an entry (a part of I9).
        outages: What could not be looked at, or takes no writes. A report with an outage is not clean.
    """

    breaches: list[Breach] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    redis_checked: bool = False
    sql_checked: bool = True
    outages: list[str] = field(default_factory=list)


Progress = Callable[[int, int], None]
"""Called with the number of events that were read, and the number of all events."""


def verify(sql_url: str | None, redis_url: str | None, progress: Progress = lambda done, whole: None) -> Report:
    """Check all invariants.

    Args:
        sql_url: URL of the ledger; None to check Redis alone.
        redis_url: URL of Redis; None to check SQL alone.
        progress: Called with the events that were read, and with all events.

    Raises:
        CannotStart: A store cannot be read.
    """
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


def _look(sql_url: str | None, redis_url: str | None, progress: Progress) -> Report:
    report = Report(redis_checked=redis_url is not None, sql_checked=sql_url is not None)
    if sql_url is None:
        states = _in_redis(redis_url, None) if redis_url else {}
        for pool, state in states.items():
            report.breaches += _places(pool, state)
        report.checked = {
            "pools": len(states),
            "slots": sum(len(one.slots) for one in states.values()),
            "waiters": sum(len(one.queue) for one in states.values()),
        }
        return report
    url = sa.make_url(sql_url)
    sqlite = url.get_backend_name() == "sqlite"
    driver, options = (
        ("sqlite+pysqlite", {}) if sqlite else ("postgresql+psycopg", ANSWERS_SOON | primary_of_several(sql_url))
    )
    engine = sa.create_engine(url.set(drivername=driver), connect_args=options)
    at = "" if sqlite else "gate."
    with engine.connect() as sql:
        if sqlite:
            sql.exec_driver_sql(f"pragma cache_size = -{SQLITE_CACHE_KB}")
        pools = [
            row.name for row in sql.execute(sa.text(f"select name from {at}pools where deleted_at is null order by name"))
        ]
        # Read Redis first. A job is in SQL before its caller is answered, so SQL must have a moment later what Redis has now.
        states = _in_redis(redis_url, pools) if redis_url else {}
        report.breaches += _money(sql, at)
        whole = sql.execute(sa.text(f"select count(*) from {at}events")).scalar_one()
        report.breaches += replay(sql, at, lambda done: progress(done, whole))
        live = _live(sql, at) if states else {}
        for pool, state in states.items():
            report.breaches += _members(pool, state, live.get(pool, {}))
        for name in ("jobs", "ledger", "events"):
            report.checked[name] = sql.execute(sa.text(f"select count(*) from {at}{name}")).scalar_one()
        report.checked["pools"] = len(pools)
    engine.dispose()
    return report


def _money(sql: Connection, at: str) -> Iterator[Breach]:
    # Of each query an index has all that it reads of a long table, or it reads the table in its own order.
    twice = f"select job_id, kind, count(*) n from {at}ledger group by job_id, kind having count(*) > 1"
    for row in sql.execute(sa.text(twice)):
        yield Breach("I1" if row.kind == "refund" else "I3", row.job_id, f"{row.n} {row.kind}s")
    # Each entry of the ledger against its job, then each job against its entries.
    wrong = f"""select l.job_id, l.kind, l.amount, j.job_id as job, j.status, j.credits from {at}ledger l
        left join {at}jobs j on j.job_id = l.job_id
        where j.job_id is null or (l.kind = 'charge' and l.amount <> j.credits)
           or (l.kind = 'refund' and j.status not in {REFUNDED})"""
    for row in sql.execute(sa.text(wrong)):
        if row.job is None:
            yield Breach("I5", row.job_id, "ledger names it, jobs does not")
        elif row.kind == "charge":
            yield Breach("I3", row.job_id, f"{row.credits} credits, 1 charges of {row.amount}")
        else:
            yield Breach("I2", row.job_id, f"{row.status} with {row.credits} credits, refunded {row.amount}, owed 0")
    yield from _refunds(sql, at)
    yield from _uncharged(sql, at)


def _refunds(sql: Connection, at: str) -> Iterator[Breach]:
    refunds = f"""select j.job_id, j.status, j.credits, r.amount, o.amount as owed from {at}jobs j
        left join {at}ledger r on r.job_id = j.job_id and r.kind = 'refund'
        left join {at}owed o on o.job_id = j.job_id
        where j.status in {REFUNDED}
          and ((case when {_keeps_charge(at)} then 0 else j.credits end) <> coalesce(r.amount, 0) + coalesce(o.amount, 0)
           or (r.amount is not null and o.amount is not null))
          and not {_is_forgotten("coalesce(r.amount, 0) + coalesce(o.amount, 0)")}"""
    for row in sql.execute(sa.text(refunds)):
        yield Breach(
            "I2", row.job_id, f"{row.status} with {row.credits} credits, refunded {row.amount or 0}, owed {row.owed or 0}"
        )
    owed = f"""select j.job_id, j.status, j.credits, o.amount from {at}owed o join {at}jobs j on j.job_id = o.job_id
        where j.status not in {REFUNDED}"""
    for row in sql.execute(sa.text(owed)):
        yield Breach("I2", row.job_id, f"{row.status} with {row.credits} credits, refunded 0, owed {row.amount}")


def _uncharged(sql: Connection, at: str) -> Iterator[Breach]:
    """Find jobs with credits and without a charge.

    No job has two charges, and each charge is of a job. So if both numbers are equal, no charge is missing, and the jobs need not
    be looked at one by one.
    """
    numbers = f"""select (select count(*) from {at}jobs where credits > 0),
        (select count(*) from {at}ledger where kind = 'charge')"""
    with_credits, charged = sql.execute(sa.text(numbers)).one()
    if with_credits == charged:
        return
    without = f"""select j.job_id, j.credits from {at}jobs j where j.credits > 0 and not exists
        (select 1 from {at}ledger c where c.job_id = j.job_id and c.kind = 'charge')"""
    for row in sql.execute(sa.text(without)):
        yield Breach("I3", row.job_id, f"{row.credits} credits, 0 charges of 0")


REFUNDED = ("failed", "cancelled", "expired")
"""Statuses of a job whose credits go back."""
CANCELLED_LATE = """(j.status = 'cancelled' and j.cancel_refunds = 'until_started' and j.granted_at is not null
    and (j.ended_by in ('holder', 'operator') or (j.ended_by = 'caller' and coalesce(j.end_reason, '') <> 'caller_gone')))"""
"""SQL: the job held a slot when it was cancelled, by a role that gets no refund once it runs."""


def _keeps_charge(at: str) -> str:
    """Write SQL that is true for a job without a refund. By its history it ran when it was cancelled."""
    before = f"""(select e.kind from {at}events e where e.job_id = j.job_id and e.kind in ('queued', 'granted', 'running')
        order by e.id desc limit 1)"""
    return f"({CANCELLED_LATE} and coalesce({before}, '') = 'running')"


def _is_forgotten(refunded: str) -> str:
    """Write SQL that is true where the history is pruned, so that nothing says whether the job ran. All or nothing is then right."""
    return f"({CANCELLED_LATE} and j.pruned_at is not null and {refunded} in (0, j.credits))"


@dataclass(frozen=True, slots=True)
class _RedisPool:
    """Everything that Redis has of a pool. An entry that is no JSON object is None."""

    now_ms: int
    slots: list[str]
    queue: list[str]
    entries: dict[str, dict[str, Any] | None]
    meta: dict[str, str]


def _in_redis(url: str, pools: list[str] | None) -> dict[str, _RedisPool]:
    """Read all pools on one connection to each primary.

    Args:
        url: URL of Redis.
        pools: Names of the pools; None for those that Redis has.
    """
    states = {}
    with redis_primaries.opened(url, ANSWER_S) as primaries:
        for client, has in primaries:
            there = None if pools is None else [pool for pool in pools if has(f"gate:{{{pool}}}:slots")]
            states.update(_in_primary(client, there))
    return states


def _in_primary(client: redis.Redis, pools: list[str] | None) -> dict[str, _RedisPool]:
    """Read the pools of one primary. One round trip finds those that are empty, of which nothing more has to be read."""
    states = {}
    if pools is None:
        found = (POOL_OF.fullmatch(key) for key in client.scan_iter("gate:{*}:meta", count=AT_A_TIME))
        pools = sorted({match[1] for match in found if match})
    with client.pipeline(transaction=False) as asked:
        for pool in pools:
            asked.zcard(f"gate:{{{pool}}}:slots")
            asked.llen(f"gate:{{{pool}}}:queue")
        counts = asked.execute() if pools else []
    for pool, held, waiting in zip(pools, counts[::2], counts[1::2], strict=True):
        states[pool] = _pool_in_redis(client, pool) if held or waiting else _RedisPool(0, [], [], {}, {})
    return states


def _pool_in_redis(client: redis.Redis, pool: str) -> _RedisPool:
    key = f"gate:{{{pool}}}:"
    with client.pipeline(transaction=True) as asked:
        asked.time()
        asked.zrange(key + "slots", 0, -1)
        asked.lrange(key + "queue", 0, -1)
        asked.hgetall(key + "jobs")
        asked.hgetall(key + "meta")
        (seconds, micros), slots, queue, entries, meta = asked.execute()
    return _RedisPool(
        seconds * 1000 + micros // 1000 - int(meta.get("ahead_ms", 0)),
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


def _tool_cools(state: _RedisPool, entry: dict[str, Any] | None) -> bool:
    """Tell whether gate starts this job while the start address of its tool is failing."""
    if entry is None or not entry.get("by_gate"):
        return False
    until = state.meta.get(f"cool:{entry.get('tool')}", "0").split(" ")[0]
    return until.isdigit() and int(until) > state.now_ms


def _cools_alone(state: _RedisPool, entry: dict[str, Any] | None) -> bool:
    """Tell whether a job that its provider always refuses waits for its next try."""
    return entry is not None and bool(entry.get("poison")) and float(entry.get("aside_until", 0)) > state.now_ms


def _absent(state: _RedisPool, entry: dict[str, Any] | None) -> bool:
    """Tell whether the caller of a waiter has not shown itself for the time that it named."""
    if entry is None or not isinstance(time_ms := entry.get("presence_ms"), int):
        return False
    loaded_at = int(float(state.meta.get("loaded_at", 0)))
    return bool(max(entry.get("present_until", 0), loaded_at + time_ms) <= state.now_ms)


def _live(sql: Connection, at: str) -> dict[str, dict[str, Any]]:
    """Read the live jobs of all pools, by pool and job_id."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in sql.execute(sa.text(f"select pool, job_id, status, lease_id from {at}jobs where ended_at is null")):
        found[row.pool][row.job_id] = row
    return found


def _places(pool: str, state: _RedisPool) -> Iterator[Breach]:
    """Check what needs Redis alone."""
    cooling = int(float(state.meta.get("cooling_until", 0))) > state.now_ms
    held_back = cooling or state.meta.get("paused") == "1"
    entries = {job: state.entries.get(job) for job in state.queue}
    passed = (_tool_cools, _cools_alone, _absent)
    waits = [job for job, entry in entries.items() if not any(is_passed(state, entry) for is_passed in passed)]
    if waits and len(state.slots) < int(state.meta.get("limit", 0)) and not held_back:
        yield Breach("I7", pool, f"{len(waits)} wait beside a free slot")
    places: defaultdict[str, int] = defaultdict(int)
    for job in [*state.slots, *state.queue]:
        places[job] += 1
        if places[job] > 1:
            yield Breach("I9", job, "it has two places in Redis")
    for members, does in ((state.slots, "holds a slot"), (state.queue, "waits")):
        for job in members:
            if state.entries.get(job) is None:
                yield Breach("I9", job, f"it {does} without an entry in jobs")


def _members(pool: str, state: _RedisPool, rows: dict[str, Any]) -> Iterator[Breach]:
    """Check Redis, and compare it with the live jobs of SQL."""
    yield from _places(pool, state)
    for job in state.slots:
        entry, row = state.entries.get(job), rows.get(job)
        if entry is not None and entry.get("drains"):
            if row is not None:
                yield Breach("I9", job, "its slot drains, and it is live in SQL")
        elif (
            entry is not None
            and state.now_ms - entry.get("granted_at", 0) > UNRECORDED_MS
            and (row is None or row.lease_id != entry.get("lease_id"))
        ):
            yield Breach("I9", job, "it holds a slot that SQL knows nothing of")
    for job in state.queue:
        if state.entries.get(job) is not None and job not in rows:
            yield Breach("I9", job, "it waits, and is not live in SQL")
    for job in rows.keys() - {*state.slots, *state.queue}:
        yield Breach("I9", job, f"{rows[job].status} in SQL, nowhere in Redis")
