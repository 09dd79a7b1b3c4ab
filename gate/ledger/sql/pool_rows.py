"""A pool's row: its epoch, the Redis it lives in, its settings, and the lock that every transaction on the pool's jobs holds."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from gate.ledger.sql.statements import CompiledStatement
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed, pools
from gate.model.errors import PoolUnknown
from gate.model.job import now_ms


@dataclass(frozen=True, slots=True)
class PoolSettings:
    limit: int
    lease_ms: int
    max_hold_ms: int
    claim_ms: int
    queue_ms: int
    queue_max: int
    cooldown_ms: int
    max_active_per_user: int


@dataclass(frozen=True, slots=True)
class Pool:
    """`redis` is the identity of the Redis that the pool is loaded in, `former` those that it replaced; `ledger_id` says in
    Redis whose pool it is."""

    name: str
    epoch: int
    void_fence: int
    void_ticket: int
    paused: bool
    settings: PoolSettings
    redis: str
    former: tuple[str, ...]
    ledger_id: str

    def in_redis(self) -> dict[str, int]:
        """The settings by the names of `meta`."""
        return asdict(self.settings) | {"paused": int(self.paused)}


CONFIGURATION = "configuration"
"""Who changed what differs in a configuration file from what it said at the start before."""
FORMER_MAX = 20
"""Identities remembered as replaced. One that comes back is a Redis that some server still uses and others have left."""
SETTING_NAMES = tuple(field.name for field in fields(PoolSettings))


class _Row(NamedTuple):
    """Columns of `pools`, in the order in which they are selected. On SQLite `paused` is 0 or 1."""

    name: str
    epoch: int
    void_fence: int
    void_ticket: int
    limit: int
    lease_ms: int
    max_hold_ms: int
    claim_ms: int
    queue_ms: int
    queue_max: int
    cooldown_ms: int
    max_active_per_user: int
    paused: int
    configured: str
    redis_identity: str
    redis_former: str
    ledger_id: str


@lru_cache(maxsize=256)
def _pool(row: _Row) -> Pool:
    """Kept: a batch reads the row of its pool, and it hardly ever is another than the batch before read."""
    settings = PoolSettings(**{name: getattr(row, name) for name in SETTING_NAMES})
    former = tuple(row.redis_former.split())
    return Pool(
        row.name,
        row.epoch,
        row.void_fence,
        row.void_ticket,
        bool(row.paused),
        settings,
        row.redis_identity,
        former,
        row.ledger_id,
    )


_columns = sa.select(*(pools.c[name] for name in _Row._fields))
_locked = _columns.where(pools.c.name == sa.bindparam("pool")).with_for_update()
_lock = CompiledStatement(lambda: _locked, ["pool"])
_all = _columns.order_by(pools.c.name)


def lock(connection: Connection, name: str) -> Pool:
    """The row, held until the transaction ends (on SQLite the whole file is). Raises PoolUnknown."""
    found = locked(locking(connection, name))
    if found is None:
        raise PoolUnknown(f"there is no pool {name!r}")
    return found


def locking(connection: Connection, name: str) -> DBAPICursor:
    """The cursor that `locked` reads."""
    return _lock.run(connection, [name])


def locked(locking: DBAPICursor) -> Pool | None:
    """None when there is none of that name."""
    found = locking.fetchall()
    return _pool(_Row(*found[0])) if found else None


_touch = pools.update().where(pools.c.name == sa.bindparam("pool")).values(epoch=pools.c.epoch)
_nothing = [
    table.insert().from_select(table.c.keys(), sa.select(table).where(sa.false()), include_defaults=False)
    for table in (jobs, events, ledger, owed, deliveries)
] + [jobs.update().where(sa.false()).values(status=jobs.c.status)]


def probe(connection: Connection, name: str) -> None:
    """Changes nothing, and needs what every outcome needs: room for a row, the right to write it, tables that nobody holds."""
    connection.execute(_touch, {"pool": name})
    for statement in _nothing:
        connection.execute(statement)


def every(connection: Connection) -> list[Pool]:
    return [_pool(_Row(*row)) for row in connection.execute(_all)]


def raise_epoch(connection: Connection, pool: Pool, floor: int, identity: str) -> int:
    """A new life of the pool, in the Redis of this identity."""
    epoch = max(pool.epoch, floor) + 1
    former = pool.former if identity == pool.redis or not pool.redis else (pool.redis, *pool.former)[:FORMER_MAX]
    connection.execute(
        pools.update()
        .where(pools.c.name == pool.name)
        .values(epoch=epoch, redis_identity=identity, redis_former=" ".join(former))
    )
    return epoch


def void(connection: Connection, pool: Pool, fence: int, ticket: int) -> None:
    """No grant of this fence, and no place of this ticket, or of an older one that SQL has not seen, is ever recorded."""
    voided = {"void_fence": max(pool.void_fence, fence), "void_ticket": max(pool.void_ticket, ticket)}
    connection.execute(pools.update().where(pools.c.name == pool.name).values(**voided))


def make(
    connection: Connection,
    name: str,
    settings: PoolSettings,
    configured: dict[str, int] | None = None,
    reason: str | None = None,
    by: str = "operator",
) -> bool:
    """False when there is one already. `configured`: what a configuration file says of it; a pool that is made live has none."""
    if connection.execute(_locked, {"pool": name}).first() is not None:
        return False
    connection.execute(
        pools.insert().values(
            name=name,
            epoch=0,
            void_fence=0,
            void_ticket=0,
            redis_identity="",
            redis_former="",
            ledger_id=secrets.token_hex(8),
            paused=False,
            configured=json.dumps(configured or {}),
            **asdict(settings),
        )
    )
    _changed(connection, name, {"limit": settings.limit}, by, reason)
    return True


def configure(connection: Connection, name: str, wanted: PoolSettings) -> bool:
    """Makes the pool, or applies each value that differs from the one configured last; the others stay as they are
    live. True when anything changed.
    """
    configured = asdict(wanted)
    row = connection.execute(_locked, {"pool": name}).first()
    if row is None:
        return make(connection, name, wanted, configured, by=CONFIGURATION)
    before = json.loads(row.configured)
    changed = {key: value for key, value in configured.items() if before.get(key) != value}
    if not changed:
        return False
    connection.execute(pools.update().where(pools.c.name == name).values(configured=json.dumps(configured), **changed))
    _changed(connection, name, changed, CONFIGURATION)
    return True


def change(connection: Connection, name: str, values: dict[str, int | bool], by: str, reason: str | None) -> Pool:
    """Changes the live settings; what was configured stays what it was, so that a restart keeps this. Raises PoolUnknown."""
    before = lock(connection, name)
    connection.execute(pools.update().where(pools.c.name == name).values(**values))
    was = asdict(before.settings)
    changed = {key: value for key, value in values.items() if key in was and value != was[key]}
    _changed(connection, name, changed, by, reason)
    if values.get("paused", before.paused) != before.paused:
        kind = "paused" if values["paused"] else "resumed"
        connection.execute(events.insert().values(at=now_ms(), pool=name, kind=kind, by=by, why=reason))
    return lock(connection, name)


def _changed(connection: Connection, name: str, changed: Mapping[str, int], by: str, reason: str | None = None) -> None:
    """The limit in force is part of the history: only so can I4 be checked afterwards. The others are for people."""
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
