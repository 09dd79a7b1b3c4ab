"""Read and change a pool's row: its epoch, its Redis, its settings. Every transaction on the pool's jobs locks this row."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from gate.ledger.sql.statements import CompiledStatement
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed, pools
from gate.model import redis_identity
from gate.model.errors import PoolUnknown
from gate.model.job import HOLDING, CancelRefunds, now_ms

PROBE_BYTES = 32_768
"""Size of the row (bytes) that a probe writes. With it a probe takes as many pages as the commit of a job: some ten."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Settings of a pool. Each is a column of `pools`. The integers are fields of `meta` in Redis too, where the scripts read them.

    Attributes:
        limit: Number of slots.
        lease_ms: Length of a lease (ms), unless the job asks for another.
        max_hold_ms: How long a job may hold a slot in all (ms), however often its lease is renewed.
        claim_ms: How long a granted job may stay unclaimed (ms).
        queue_ms: How long a job may wait (ms), unless it asks for another time.
        queue_max: Number of jobs that may wait.
        cooldown_ms: How long no slot is granted after a refusal by the provider (ms).
        max_active_per_user: Number of live jobs that one user may have; 0 for no cap.
        queue_max_per_user: Number of waiting jobs that one user may have; 0 for no cap.
        refusals_before_passing: Refusals of one job in a row, after which others are tried before it.
        cancel_refunds: Whether a job that is admitted now is refunded when it is cancelled after its start, unless its tool says.
    """

    limit: int
    lease_ms: int
    max_hold_ms: int
    claim_ms: int
    queue_ms: int
    queue_max: int
    cooldown_ms: int
    max_active_per_user: int
    queue_max_per_user: int = 0
    refusals_before_passing: int = 3
    cancel_refunds: CancelRefunds = "always"

    @property
    def has_user_cap(self) -> bool:
        """Whether one user may not take the whole pool."""
        return self.max_active_per_user > 0 or self.queue_max_per_user > 0


@dataclass(frozen=True, slots=True)
class Pool:
    """A row of `pools`.

    Attributes:
        name: Name of the pool.
        epoch: Epoch under which the pool was loaded last.
        void_fence: Highest fence that was voided. No grant up to it is recorded any more.
        void_ticket: Highest ticket that was voided. No new job up to it is recorded any more.
        paused: No slot is granted.
        settings: The live settings.
        redis: Identity of the Redis in which the pool is loaded; empty before the first load.
        former: Identities of the Redis servers that it replaced, the newest first.
        ledger_id: Names this ledger in Redis as the owner of the pool.
        stood_ms: How long the pool had stood still in all (ms), at its last rebuild.
        stood_at: When that was (ms since 1970); 0 before the first rebuild.
        clock_ahead_ms: By how much (ms) the clock of Redis is ahead of the pool's, since it stepped.
        accounts: Names of the accounts among which each grant chooses, in their order; empty when it chooses none.
        room: Number of tasks that these accounts take in all; None when that is not limited.
    """

    name: str
    epoch: int
    void_fence: int
    void_ticket: int
    paused: bool
    settings: PoolSettings
    redis: str
    former: tuple[str, ...]
    ledger_id: str
    stood_ms: int = 0
    stood_at: int = 0
    clock_ahead_ms: int = 0
    accounts: tuple[str, ...] = ()
    room: int | None = None

    @property
    def limit_in_force(self) -> int:
        """Number of slots that may be held now: the limit, or the room of the accounts when that is less."""
        return self.settings.limit if self.room is None else min(self.settings.limit, self.room)

    def in_redis(self) -> dict[str, int]:
        """Return the settings by the field names of `meta` in Redis."""
        live = {name: value for name, value in asdict(self.settings).items() if name not in SQL_ALONE}
        return live | {"limit": self.limit_in_force, "paused": int(self.paused)}


CONFIGURATION = "configuration"
"""Actor in the history for a change that came from the configuration file."""
FORMER_MAX = 20
"""Replaced identities to remember. One that returns is a Redis that some server uses and the others have left."""
NAMES_MAX = 5_000
"""Names in one query. Each is a parameter, of which SQLite takes 32,766."""
SQL_ALONE = frozenset({"cancel_refunds"})
"""Settings that no script reads: SQL alone decides what is refunded."""
SETTING_NAMES = tuple(field.name for field in fields(PoolSettings))


_COLUMNS = (
    "name", "epoch", "void_fence", "void_ticket", "paused", "redis_identity", "redis_former", "ledger_id", "stood_ms", "stood_at",
    "clock_ahead_ms", "accounts", "room",
)  # fmt: skip


@lru_cache(maxsize=1024)
def _pool(row: tuple[Any, ...]) -> Pool:
    """Convert a row. The result is cached, because successive batches nearly always read the same row."""
    name, epoch, void_fence, void_ticket, paused, identity, former, ledger_id, *rest = row
    stood_ms, stood_at, ahead_ms, accounts, room, *settings = rest
    return Pool(
        name,
        epoch,
        void_fence,
        void_ticket,
        bool(paused),
        PoolSettings(*settings),
        identity,
        tuple(former.split()),
        ledger_id,
        stood_ms,
        stood_at,
        ahead_ms,
        tuple(accounts.split()),
        room,
    )


_is_there = pools.c.deleted_at.is_(None)
_columns = sa.select(*(pools.c[name] for name in (*_COLUMNS, *SETTING_NAMES))).where(_is_there)
_configured = sa.select(pools.c.configured, *(pools.c[name] for name in SETTING_NAMES)).where(
    pools.c.name == sa.bindparam("pool"), _is_there
)
_locked = _columns.where(pools.c.name == sa.bindparam("pool")).with_for_update()
LOCK = CompiledStatement(lambda: _locked, ["pool"])
"""The query of `lock`. Its parameter is the name of the pool."""
_one = _columns.where(pools.c.name == sa.bindparam("pool"))
_all = _columns.order_by(pools.c.name)


def lock(connection: Connection, name: str) -> Pool:
    """Lock the row of a pool until the transaction ends. On SQLite that locks the whole file.

    Raises:
        PoolUnknown: There is no pool of this name.
    """
    found = locked(LOCK.run(connection, [name]))
    if found is None:
        raise PoolUnknown(f"there is no pool {name!r}")
    return found


def locked(locking: DBAPICursor) -> Pool | None:
    """Read the answer of LOCK from its cursor; None when there is no pool of this name."""
    found = locking.fetchall()
    return _pool(tuple(found[0])) if found else None


_touch = pools.update().where(pools.c.name == sa.bindparam("pool")).values(epoch=pools.c.epoch)
_nothing = [
    table.insert().from_select(table.c.keys(), sa.select(table).where(sa.false()), include_defaults=False)
    for table in (jobs, events, ledger, owed, deliveries)
] + [jobs.update().where(sa.false()).values(status=jobs.c.status)]


def probe(connection: Connection, name: str, thorough: bool = True) -> None:
    """Check that SQL can be written, without a change.

    The statements need what every outcome needs: disk space for a row, the privilege to write it, and tables that are not
    locked.

    Args:
        connection: A connection in a transaction.
        name: Name of the pool whose row is touched; empty for none.
        thorough: Write as much as an outcome does, also on Postgres. A disk with little room may take a small row.
    """
    connection.execute(_touch, {"pool": name})
    for statement in _nothing:
        connection.execute(statement)
    sqlite = connection.dialect.name == "sqlite"
    size = PROBE_BYTES // 2 if thorough or sqlite else 0  # guard: probe-as-large-as-a-job
    # The id is below all others. So no number of the sequence is used, and no reader has a gap to wait for.
    values = {"id": -1 - secrets.randbelow(2**62), "at": 0, "pool": name, "kind": "probe", "by": "gate"}
    row = events.insert().values(values | {"why": secrets.token_hex(size)})
    if sqlite:
        # Not a savepoint: SQLite would then write nothing. The log gets every page that the transaction has touched.
        connection.execute(row)
        connection.execute(events.delete().where(events.c.id == values["id"]))
    else:
        with connection.begin_nested() as written:
            connection.execute(row)
            written.rollback()


def every(connection: Connection) -> list[Pool]:
    """Return all pools, in order of their names."""
    return [_pool(tuple(row)) for row in connection.execute(_all)]


def named(connection: Connection, names: Collection[str]) -> dict[str, Pool]:
    """Return those of the pools that there are, by name."""
    wanted = sorted(names)
    found: dict[str, Pool] = {}
    for first in range(0, len(wanted), NAMES_MAX):
        query = _columns.where(pools.c.name.in_(wanted[first : first + NAMES_MAX]))
        found |= {row.name: _pool(tuple(row)) for row in connection.execute(query)}
    return found


def version(connection: Connection) -> int:
    """Return the ID of the newest event about a pool itself, such as its making, a change or its deletion; 0 without one."""
    return connection.execute(sa.select(sa.func.max(events.c.id)).where(events.c.job_id.is_(None))).scalar() or 0


def find(connection: Connection, name: str) -> Pool | None:
    """Return a pool without a lock; None when there is none of this name."""
    row = connection.execute(_one, {"pool": name}).first()
    return None if row is None else _pool(tuple(row))


def was_made(connection: Connection, name: str) -> bool:
    """Return whether there is a pool of this name, or was one that was deleted."""
    return connection.execute(sa.select(pools.c.name).where(pools.c.name == name)).first() is not None


def raise_epoch(connection: Connection, pool: Pool, floor: int, identity: str, stood: tuple[int, int]) -> int:
    """Give the pool a new epoch.

    Args:
        connection: A connection in a transaction.
        pool: The pool, locked.
        floor: Highest epoch found in Redis. The new one is above it.
        identity: Identity of the Redis in which the pool is going to be loaded.
        stood: How long the pool has stood still in all (ms), and the time of that (ms since 1970).

    Returns:
        The new epoch.
    """
    epoch = max(pool.epoch, floor) + 1
    former = redis_identity.left(pool.redis, pool.former, identity)[:FORMER_MAX]
    connection.execute(
        pools.update()
        .where(pools.c.name == pool.name)
        .values(epoch=epoch, redis_identity=identity, redis_former=" ".join(former), stood_ms=stood[0], stood_at=stood[1])
    )
    return epoch


def void(connection: Connection, pool: Pool, fence: int, ticket: int) -> None:
    """Forbid that an unrecorded grant or place is ever recorded.

    Args:
        connection: A connection in a transaction.
        pool: The pool, locked.
        fence: Fence of the grant. Older grants that SQL has not recorded are void too.
        ticket: Ticket of the place. Older places that SQL has not recorded are void too.
    """
    voided = {"void_fence": max(pool.void_fence, fence), "void_ticket": max(pool.void_ticket, ticket)}
    connection.execute(pools.update().where(pools.c.name == pool.name).values(**voided))


def make(
    connection: Connection,
    name: str,
    settings: PoolSettings,
    configured: dict[str, Any] | None = None,
    reason: str | None = None,
    by: str = "operator",
) -> bool:
    """Create a pool.

    Args:
        connection: A connection in a transaction.
        name: Name of the pool.
        settings: Its settings.
        configured: Its settings in a configuration file; None for a pool that was created at run time.
        reason: Reason for the history.
        by: Actor for the history.

    Returns:
        False when a pool of this name exists.
    """
    if connection.execute(_locked, {"pool": name}).first() is not None:
        return False
    values = {
        "redis_identity": "",
        "redis_former": "",
        "ledger_id": secrets.token_hex(8),
        "clock_ahead_ms": 0,
        "paused": False,
        "configured": json.dumps(configured or {}),
        "deleted_at": None,
    } | asdict(settings)
    # A deleted pool of this name keeps its epoch and what was voided, so that no fence and no ticket comes twice.
    deleted = pools.c.deleted_at.is_not(None)
    if connection.execute(pools.update().where(pools.c.name == name, deleted).values(**values)).rowcount == 0:
        connection.execute(pools.insert().values(name=name, epoch=0, void_fence=0, void_ticket=0, **values))
    _changed(connection, name, {"limit": settings.limit}, by, reason)
    return True


def configure(connection: Connection, name: str, wanted: PoolSettings) -> bool:
    """Create the pool, or apply the values that differ from those configured last. Other settings keep their live values.

    Args:
        connection: A connection in a transaction.
        name: Name of the pool.
        wanted: Its settings in the configuration file.

    Returns:
        True when anything changed.
    """
    configured = asdict(wanted)
    row = connection.execute(_configured.with_for_update(), {"pool": name}).first()
    if row is None:
        return make(connection, name, wanted, configured, by=CONFIGURATION)
    configured_before = json.loads(row.configured)
    # A setting that is new since then was never configured. Its default is live, and is no change for the history.
    live = row._asdict() if configured_before else {}
    before = live | configured_before
    changed = {key: value for key, value in configured.items() if before.get(key) != value}
    if not changed:
        return False
    connection.execute(pools.update().where(pools.c.name == name).values(configured=json.dumps(configured), **changed))
    _lengthen_holds(connection, name, wanted.max_hold_ms)
    _changed(connection, name, changed, CONFIGURATION)
    return True


def change(connection: Connection, name: str, values: dict[str, Any], by: str, reason: str | None) -> Pool:
    """Change live settings. What was configured stays on record, so that a restart keeps the live values.

    Args:
        connection: A connection in a transaction.
        name: Name of the pool.
        values: New values by setting; `paused` too.
        by: Actor for the history.
        reason: Reason for the history.

    Returns:
        The pool after the change.

    Raises:
        PoolUnknown: There is no pool of this name.
    """
    before = lock(connection, name)
    connection.execute(pools.update().where(pools.c.name == name).values(**values))
    if "max_hold_ms" in values:
        _lengthen_holds(connection, name, values["max_hold_ms"])
    was = asdict(before.settings)
    changed = {key: value for key, value in values.items() if key in was and value != was[key]}
    _changed(connection, name, changed, by, reason)
    is_held = by == "gate" and values.get("paused", False)  # written down also if an operator has paused the pool before
    if values.get("paused", before.paused) != before.paused or is_held:
        kind = "paused" if values["paused"] else "resumed"
        connection.execute(events.insert().values(at=now_ms(), pool=name, kind=kind, by=by, why=reason))
    return lock(connection, name)


def delete(connection: Connection, name: str, by: str, reason: str | None) -> bool:
    """Delete a pool without live jobs. Its row stays, hidden, for the jobs that name it and for its epoch.

    Args:
        connection: A connection in a transaction.
        name: Name of the pool.
        by: Actor for the history.
        reason: Reason for the history.

    Returns:
        False when it has live jobs. Then nothing is changed.

    Raises:
        PoolUnknown: There is no pool of this name.
    """
    lock(connection, name)
    live = sa.select(jobs.c.job_id).where(jobs.c.pool == name, jobs.c.ended_at.is_(None)).limit(1)
    if connection.execute(live).first() is not None:  # guard: delete-only-an-empty-pool
        return False
    at = now_ms()
    connection.execute(pools.update().where(pools.c.name == name).values(deleted_at=at))
    connection.execute(events.insert().values(at=at, pool=name, kind="deleted", by=by, why=reason))
    return True


def _lengthen_holds(connection: Connection, name: str, max_hold_ms: int) -> None:
    """Move the hard limits of leases that a longer hold reaches. A shorter hold moves none: holders were told of theirs."""
    held = (jobs.c.pool == name) & jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(HOLDING))
    hard = jobs.c.granted_at + max_hold_ms
    connection.execute(jobs.update().where(held, jobs.c.hard_expires_at < hard).values(hard_expires_at=hard))


def _changed(connection: Connection, name: str, changed: Mapping[str, Any], by: str, reason: str | None = None) -> None:
    """Write the changes into the history.

    The limit has to be there at every moment, because invariant I4 is checked against it afterwards. The others are for
    operators.
    """
    rows = []
    for key, value in changed.items():
        if key == "limit":
            rows.append(("limit", str(value)))
        elif key.endswith("_ms"):
            rows.append(("setting", f"{key.removesuffix('_ms')}_seconds {value / 1000:g}"))
        else:
            rows.append(("setting", f"{key} {value}"))
    if rows and reason is not None:
        rows.append(("reason", reason))
    at = now_ms()
    for kind, why in rows:
        connection.execute(events.insert().values(at=at, pool=name, kind=kind, by=by, why=why))
