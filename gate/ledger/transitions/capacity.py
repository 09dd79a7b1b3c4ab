"""The capacity of accounts: which one a grant takes, and how many tasks a pool may run because of its provider.

The provider's limit and its count of tasks come in by `counted`. Tasks that it counts and gate does not have are those of strangers. They
take room from the pool. A count may be wrong or late, so room falls only when a second count confirms it. It rises at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import account_rows, pool_rows
from gate.ledger.sql.account_rows import AccountRow, AccountUse
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.tables import accounts, events, jobs, pools
from gate.model.account import Account, Accounts
from gate.model.job import now_ms
from gate.model.messages import Answer, AnswerState, Room

LOOK_MS = 60_000
"""Time (ms) between two looks at an account that is in use, or that is down."""
LOOK_WAITING_MS = 10_000
"""The same while jobs wait, and after a look that brought nothing."""
CONFIRM_MS = 5_000
"""Time (ms) after which a second look may confirm a smaller room."""
TAKEN_MS = 30_000
"""Time (ms) for which a server holds a look: two requests, and the record."""
REFUSED_MS = 60_000
"""Time (ms) for which a refusal by the provider may confirm that no room is left at all."""


def choose(batch: UnitOfWork, pool: Pool) -> str | None:
    """Choose the account of a grant: one with room, with the fewest tasks, then with the fewest stops that are owed, then the first.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.

    Returns:
        Name of the account; None when the pool chooses none.
    """
    if len(pool.accounts) < 2:
        return pool.accounts[0] if pool.accounts else None
    used = batch.used(pool)
    return min(used, key=lambda name: (used[name].is_full, used[name].held, used[name].stops))


def has_room(batch: UnitOfWork, pool: Pool) -> bool:
    """Return whether an account takes a further task.

    Args:
        batch: Has locked the pool's row.
        pool: The pool, with two accounts or more. With one, the limit in force says so.
    """
    are_full = all(one.is_full for one in batch.used(pool).values())  # guard: grant-needs-an-account
    return not are_full


def with_accounts(connection: Connection) -> list[str]:
    """Return the names of the pools whose grants choose among accounts, as SQL has it."""
    return list(connection.execute(sa.select(pools.c.name).where(pools.c.accounts != "")).scalars())


def configure(connection: Connection, configured: Accounts, named: Collection[str]) -> None:
    """Write the configured accounts into SQL. Those that are no longer configured belong to no pool.

    Args:
        connection: A connection in a transaction.
        configured: The accounts.
        named: Names of all pools that have accounts in the configuration or in SQL.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(accounts.update().values(pool=None))
    for one in configured:
        values = {"pool": one.pool, "limit": one.limit, "capacity": one.capacity, "drain_ms": one.drain_ms, "look_at": 0}
        keyed = {"provider": one.provider, "name": one.name}
        connection.execute(
            insert(accounts)
            .values(**keyed, **values, next_at=0)
            .on_conflict_do_update(index_elements=list(keyed), set_=values)
        )
    for pool in named:
        chosen = " ".join(one.name for one in configured.chosen_among(pool))
        differs = (pools.c.name == pool) & (pools.c.accounts != chosen)
        connection.execute(pools.update().where(differs).values(accounts=chosen, room=None))


def settle(batch: UnitOfWork, name: str) -> Pool:
    """Write the room of a pool if its accounts have another one by now.

    Args:
        batch: A unit of work.
        name: Name of the pool.

    Returns:
        The pool after the change.
    """
    pool = batch.pool(name)
    connection = batch.connection
    rows = account_rows.of_pools(connection, [name])
    room = _room_of(connection, pool, rows, clock_ms(connection)) if pool.accounts else None
    if room == pool.room:
        return pool
    connection.execute(pools.update().where(pools.c.name == name).values(room=room))
    batch.forget_use(name)
    after = pool_rows.lock(connection, name)
    if after.limit_in_force != pool.limit_in_force:
        why = f"limit in force {after.limit_in_force} of {after.settings.limit}{_because(rows, clock_ms(connection))}"
        connection.execute(events.insert().values(at=now_ms(), pool=name, kind="capacity", by="provider", why=why))
    return after


def _room_of(connection: Connection, pool: Pool, rows: Sequence[AccountRow], now: int) -> int | None:
    """Return how many tasks of a pool its accounts take in all at a time (ms); None for any number.

    A task on an account without room keeps its slot, and takes none from the other accounts. With one account the grant has to go by its
    room alone, because no choice checks it again.
    """
    rooms = [row.room_now(now) for row in rows]
    if None in rooms or not rooms:
        return None
    if len(pool.accounts) < 2:
        return sum(room or 0 for room in rooms)
    used = account_rows.used(connection, pool.name, pool.accounts, pool.clock_ahead_ms)
    return sum(max(one.room or 0, one.held) for one in used.values())


def _because(rows: Sequence[AccountRow], now: int) -> str:
    """Say why an account takes less than its limit; empty when none does."""
    said = []
    for row in rows:
        if row.down_since is not None:
            said.append(f"{row.name} is down: {row.why}")
        elif not row.is_open(now):
            said.append(f"{row.name} was refused")
        elif row.strangers and row.room_now(now) != row.allowed(row.provider_limit):
            said.append(f"{row.name} has {row.strangers} tasks of others")
        elif row.provider_limit is not None and (row.limit is None or row.provider_limit < row.limit):
            said.append(f"the provider allows {row.name} {row.provider_limit}")
    return f" ({'; '.join(said)})" if said else ""


def counted(batch: UnitOfWork, account: Account, found: Room | Answer | None) -> None:
    """Record what a provider says of the tasks of an account.

    Args:
        batch: A unit of work.
        account: The account.
        found: The count; an Answer that says why there is none; None without a reply.
    """
    pool = batch.pool(account.pool)
    connection = batch.connection
    row = account_rows.find(connection, account.provider, account.name)
    if row is None:
        return
    now = clock_ms(connection)
    waits = jobs.c.pool == account.pool, jobs.c.ended_at.is_(None), jobs.c.status == "queued"
    is_asked_for = connection.execute(sa.select(sa.exists().where(*waits))).scalar()
    values: dict[str, object] = {"look_at": now + (LOOK_WAITING_MS if is_asked_for else LOOK_MS)}
    if isinstance(found, Room):
        used = account_rows.used(connection, pool.name, pool.accounts, pool.clock_ahead_ms) if pool.accounts else {}
        held = used[account.name].held if used else 0  # guard: drains-are-no-strangers
        values |= {"down_since": None, "why": None, "looked_at": now, "provider_limit": found.limit}
        values |= _room(row, found, held, now)  # guard: account-counts-strangers
        if values.get("seen_at") is not None:
            values["look_at"] = now + CONFIRM_MS
    elif found is not None and found.state is AnswerState.BAD_KEY:
        values |= {"down_since": row.down_since or now, "why": found.why, "look_at": now + LOOK_MS}
    else:
        values["look_at"] = now + LOOK_WAITING_MS
    _write(connection, row, values)
    batch.forget_use(account.pool)


def _room(row: AccountRow, found: Room, held: int, now: int) -> dict[str, object]:
    """Return the columns of an account's room after a count, at which gate held this many tasks on it."""
    strangers = max(0, found.total - held) if found.total is not None else 0
    allowed = row.allowed(found.limit)
    values: dict[str, object] = {"strangers": strangers, "seen_room": None, "seen_at": None}
    if allowed is None:
        return values | {"room": None}
    room = max(0, allowed - strangers)
    was_refused = row.refused_at is not None and now - row.refused_at <= REFUSED_MS
    if room < 1 <= allowed and not was_refused:  # guard: count-leaves-one
        room = 1
    is_fresh = row.looked_at is not None and now - row.looked_at <= account_rows.COUNTS_FOR_MS
    before = row.room if is_fresh and row.room is not None else allowed
    if room >= before:
        return values | {"room": room}
    seen_room, seen_at = row.seen_room, row.seen_at
    if seen_room is None or seen_at is None:
        seen_room, seen_at = room, now
    is_confirmed = now - seen_at >= CONFIRM_MS
    if is_confirmed:  # guard: room-falls-after-two-counts
        return values | {"room": min(max(room, seen_room), before)}
    return values | {"room": min(before, allowed), "seen_room": max(room, seen_room), "seen_at": seen_at}


def refused(batch: UnitOfWork, pool: Pool, name: str | None, cooling_ms: int, down: str | None) -> bool:
    """Record that the provider has refused a task on an account, or the account itself.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
        name: Name of the account; None for none.
        cooling_ms: How long (ms) no grant chooses it. The last open account cools down with its pool instead.
        down: Why the account is down; None when it is in order.

    Returns:
        Whether the pool needs no cool-down, because another account is open or this one is down.
    """
    connection = batch.connection
    rows = account_rows.of_pools(connection, [pool.name]) if name is not None else []
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        return False
    now = clock_ms(connection)
    others = any(one.is_open(now) for one in rows if one is not row)
    values: dict[str, object] = {"refused_at": now, "look_at": now}
    if down is not None:
        values = {"down_since": row.down_since or now, "why": down, "look_at": now + LOOK_MS}
    elif others:
        values["cooling_until"] = now + cooling_ms  # guard: refusal-cools-its-account
    _write(connection, row, values)
    batch.forget_use(pool.name)
    return others or down is not None


def _write(connection: Connection, row: AccountRow, values: Mapping[str, object]) -> None:
    mine = (accounts.c.provider == row.provider) & (accounts.c.name == row.name)
    connection.execute(accounts.update().where(mine).values(**values))


class CapacityLook(NamedTuple):
    """What is due for the accounts of some pools.

    Attributes:
        accounts: The accounts of the pools.
        due: Provider and name of the accounts that have to be looked at.
        unsettled: Pools whose room is another one by now.
        short: Why fewer slots are in force than the limit allows, by pool: `provider_full` or `account_down`.
    """

    accounts: list[AccountRow]
    due: list[tuple[str, str]]
    unsettled: list[str]
    short: dict[str, str]


def look(connection: Connection, names: Sequence[str]) -> CapacityLook:
    """Read what is due for the accounts of pools.

    Args:
        connection: A connection.
        names: The pools.
    """
    now, rows = clock_ms(connection), account_rows.of_pools(connection, names)
    found = CapacityLook(rows, [], [], {})
    for pool in pool_rows.every(connection):
        mine = [row for row in rows if row.pool == pool.name]
        if pool.name not in names or not pool.accounts:
            continue
        if _room_of(connection, pool, mine, now) != pool.room:
            found.unsettled.append(pool.name)
        if pool.limit_in_force < pool.settings.limit:
            found.short[pool.name] = "account_down" if any(row.down_since is not None for row in mine) else "provider_full"
    # An account whose tasks are not counted is looked at only while it is down.
    found.due.extend(
        (row.provider, row.name)
        for row in rows
        if (row.look_at <= now or row.look_at > now + LOOK_MS) and (row.capacity != "off" or row.down_since is not None)
    )
    return found


class AccountState(NamedTuple):
    """What is shown of an account.

    Attributes:
        provider: Name of the provider.
        name: Name of the account.
        limit: Number of tasks that it may take at once, the smaller one of the configuration's and the provider's; None for any number.
        provider_limit: Number of tasks that the provider allows; None when it has not said so.
        running: Jobs of gate that hold a slot on it, and tasks that are stopped while their slots drain.
        room: Number of tasks of gate that it takes now; None for any number.
        strangers: Tasks on it that are not gate's, at the last count; None before the first.
        state: `open`, `cooling` or `down`.
        why: The provider's words about an account that is down.
    """

    provider: str
    name: str
    limit: int | None
    provider_limit: int | None
    running: int
    room: int | None
    strangers: int | None
    state: str
    why: str | None


def state(connection: Connection, name: str) -> tuple[int, list[AccountState]] | None:
    """Return the limit of a pool, and its accounts in their order; None when no grant chooses among accounts."""
    pool = pool_rows.find(connection, name)
    if pool is None or not pool.accounts:
        return None
    now, used = clock_ms(connection), account_rows.used(connection, name, pool.accounts, pool.clock_ahead_ms)
    rows = {row.name: row for row in account_rows.of_pools(connection, [name])}
    return pool.settings.limit, [_state(rows[one], used[one], now) for one in pool.accounts if one in rows]


def states(connection: Connection) -> dict[str, list[AccountState]]:
    """Return the accounts of each pool whose grants choose among accounts, by the pool's name."""
    found = ((row.name, state(connection, row.name)) for row in pool_rows.every(connection) if row.accounts)
    return {name: one[1] for name, one in found if one is not None}


def _state(row: AccountRow, use: AccountUse, now: int) -> AccountState:
    word = "down" if row.down_since is not None else "open" if row.is_open(now) else "cooling"
    allowed = row.allowed(row.provider_limit)
    return AccountState(row.provider, row.name, allowed, row.provider_limit, use.held, use.room, row.strangers, word, row.why)


class Capacity:
    """The functions above, each in a transaction of its own. Its methods raise StoreDown when SQL cannot take the change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self, names: Sequence[str]) -> CapacityLook:
        """Read what is due for the accounts of pools, as `look` does."""
        return await self._database.read(lambda connection: look(connection, names))

    async def take(self, provider: str, name: str) -> bool:
        """Take the look at an account for this server. Return False when another server has it."""

        def work(batch: UnitOfWork) -> bool:
            now = clock_ms(batch.connection)
            is_far = accounts.c.look_at > now + LOOK_MS  # guard: look-after-the-clock-went-back
            mine = (accounts.c.provider == provider) & (accounts.c.name == name) & ((accounts.c.look_at <= now) | is_far)
            return batch.connection.execute(accounts.update().where(mine).values(look_at=now + TAKEN_MS)).rowcount > 0

        return await self._database.write("", "", work)

    async def counted(self, account: Account, found: Room | Answer | None) -> Pool:
        """Record what a provider says of the tasks of an account, as `counted` does. Return the pool after that."""

        def work(batch: UnitOfWork) -> Pool:
            counted(batch, account, found)
            return settle(batch, account.pool)

        return await self._database.write(account.pool, "", work)

    async def opened(self, account: Account) -> Pool:
        """Open an account that was down, to try it again. Return its pool after that."""

        def work(batch: UnitOfWork) -> Pool:
            batch.pool(account.pool)
            row = account_rows.find(batch.connection, account.provider, account.name)
            if row is not None:
                _write(batch.connection, row, {"down_since": None, "why": None})
                batch.forget_use(account.pool)
            return settle(batch, account.pool)

        return await self._database.write(account.pool, "", work)

    async def settle(self, pool: str) -> Pool:
        """Write the room of a pool if its accounts have another one by now, as `settle` does."""
        return await self._database.write(pool, "", lambda batch: settle(batch, pool))

    async def state(self, pool: str) -> tuple[int, list[AccountState]] | None:
        """Return the limit of a pool, and its accounts in their order; None when no grant chooses among accounts."""
        return await self._database.read(lambda connection: state(connection, pool))
