"""The worker that asks providers how many tasks an account has and may have, and settles the limit in force of the pools.

An account is looked at every minute while its pool is in use, every ten seconds while jobs wait, and at once after a refusal. An idle gate
asks nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from gate.coordination.capacity import CapacityCoordinator
from gate.model.account import Account
from gate.model.errors import PoolUnknown, StoreDown
from gate.model.messages import Answer, Room
from gate.providers.page import ProviderPage
from gate.workers.provider_client import NoReply, ProviderClient

log = structlog.get_logger("gate.capacity")

EVERY_S = 1.0
"""Pause (s) between two checks of what is due."""
WITHIN_S = 10.0
"""Timeout (s) of a request to a provider."""
SETTLE_S = 1.0
"""Time (s) that looks have to end when the server stops."""


class CapacityWorker:
    """Looks at the accounts that are due."""

    def __init__(self, capacity: CapacityCoordinator, pages: Mapping[str, ProviderPage], client: ProviderClient) -> None:
        self._capacity, self._pages, self._client = capacity, pages, client
        self._looks: set[asyncio.Task[None]] = set()

    async def keep(self) -> None:
        """Look at the accounts that are due, for ever."""
        while True:
            try:
                found = await self._capacity.look()
                for provider, name in found.due if found else ():
                    if (account := await self._capacity.take(provider, name)) is not None:
                        look = asyncio.create_task(self._look(account))
                        self._looks.add(look)
                        look.add_done_callback(self._looks.discard)
            except (StoreDown, PoolUnknown) as error:
                log.debug("capacity.store_away", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def settle(self) -> None:
        """Wait up to 1 s for looks under way, then cancel them. Another look is due later."""
        if self._looks:
            _, left = await asyncio.wait(self._looks, timeout=SETTLE_S)
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _look(self, account: Account) -> None:
        page = self._pages[account.provider]
        try:
            if page.count is None or account.capacity == "off":
                await self._capacity.opened(account)
            else:
                await self._capacity.counted(account, await self._count(account, page))
        except StoreDown as error:
            log.warning("capacity.not_recorded", error=str(error), account=account.name)
        except Exception:
            log.exception("capacity.crashed", account=account.name)

    async def _count(self, account: Account, page: ProviderPage) -> Room | Answer | None:
        """Ask how many tasks an account has and may have. None when the provider does not reply."""
        assert page.count is not None and page.read_count is not None
        read, key = page.read_count, account.key
        try:
            found: Room | Answer = await self._client.answer(account, page.count(key), lambda one: read(one, key), WITHIN_S)
        except NoReply as error:
            log.info("capacity.no_reply", account=account.name, why=str(error))
            return None
        return found
