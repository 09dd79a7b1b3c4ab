"""The capacity of pools with accounts: copies the limit in force into Redis, and says why it is below the limit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import AccountState, Capacity, CapacityLook, Pool
from gate.model.account import Account, Accounts
from gate.model.errors import PoolUnknown, StoreDown
from gate.model.messages import Answer, Room


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """What the accounts of a pool allow.

    Attributes:
        limit: The limit of the pool.
        accounts: Its accounts, in the order of the configuration.
    """

    limit: int
    accounts: list[AccountState]

    @property
    def strangers(self) -> int:
        """Tasks on these accounts that are not gate's, at the last count."""
        return sum(one.strangers or 0 for one in self.accounts)

    def why_short(self, in_force: int) -> str | None:
        """Return why fewer slots are in force than the limit allows: `provider_full` or `account_down`; None if it is not so.

        Args:
            in_force: The limit in force of the pool.
        """
        if in_force >= self.limit:
            return None
        return "account_down" if any(one.state == "down" for one in self.accounts) else "provider_full"


class CapacityCoordinator:
    """Keeps the limit in force of each pool equal in both stores. A method raises StoreDown when a store does not answer."""

    def __init__(self, capacity: Capacity, pools: PoolRegistry, accounts: Accounts) -> None:
        self._capacity, self._pools, self._accounts = capacity, pools, accounts
        self._names = sorted({one.pool for one in accounts})
        self._short: dict[str, str] = {}

    def why_short(self, pool: str) -> str | None:
        """Return why fewer slots are in force than the limit of a pool allows: `provider_full` or `account_down`; None if it is not so."""
        return self._short.get(pool)

    async def state(self, pool: str) -> PoolCapacity | None:
        """Return what the accounts of a pool allow; None when no grant chooses among accounts."""
        if not self._accounts.chosen_among(pool):
            return None
        found = await self._capacity.state(pool)
        return None if found is None else PoolCapacity(*found)

    async def look(self) -> CapacityLook | None:
        """Settle the pools that are not idle, and return what else is due for their accounts; None when all are idle."""
        busy = [name for name in self._names if not self._pools.is_idle(name)]
        if not busy:
            return None
        found = await self._capacity.look(busy)
        self._short = found.short
        for pool in found.unsettled:
            await self.settle(pool)
        return found

    async def settle(self, pool: str) -> None:
        """Write the limit in force of a pool into both stores, if its accounts allow another one by now."""
        if self._accounts.chosen_among(pool):
            await self._copy(await self._capacity.settle(pool))

    async def take(self, provider: str, name: str) -> Account | None:
        """Take the look at an account for this server; None when another server has it, or this one does not know the account."""
        account = self._accounts.get(provider, name)
        return account if account is not None and await self._capacity.take(provider, name) else None

    async def counted(self, account: Account, found: Room | Answer | None) -> None:
        """Record what a provider says of the tasks of an account: a count, why there is none, or nothing."""
        with contextlib.suppress(PoolUnknown):
            await self._copy(await self._capacity.counted(account, found))

    async def opened(self, account: Account) -> None:
        """Open an account that was down, to try it again, because its tasks cannot be counted."""
        with contextlib.suppress(PoolUnknown):
            await self._copy(await self._capacity.opened(account))

    async def _copy(self, pool: Pool) -> None:
        """Copy the settings into Redis. When Redis is away, the reconciler does."""
        if pool.accounts:
            with contextlib.suppress(StoreDown):
                await self._pools.pool(pool.name).configure(pool.in_redis())
