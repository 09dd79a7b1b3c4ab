"""The heartbeat of a server: it writes its row in SQL, and reads which other servers live.

On Postgres that is one update and one query a second. On SQLite no other server can use the file, so a row each half minute is enough.
"""

from __future__ import annotations

import asyncio

import structlog

from gate import __version__
from gate.coordination.pool_owners import PoolOwners
from gate.ledger import Servers
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.servers")

EVERY_S = 1.0
"""Pause (s) between two heartbeats on Postgres. A server is dead after 3.5 s without one."""
EVERY_ALONE_S = 30.0
"""The same pause (s) on SQLite. A commit each second would keep the disk awake."""


class ServerBeat:
    """Keeps the row of this server."""

    def __init__(self, servers: Servers, owners: PoolOwners, server_id: str, is_alone: bool) -> None:
        self._servers, self._owners, self._id = servers, owners, server_id
        self._is_alone, self._every_s = is_alone, EVERY_ALONE_S if is_alone else EVERY_S

    async def begin(self) -> None:
        """Write the row of a server that starts, and read the others.

        Raises:
            StoreDown: SQL does not answer.
        """
        await self._servers.join(self._id, __version__)
        await self._read()

    async def keep(self) -> None:
        """Write the row and read the others, for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if not await self._servers.beat(self._id):
                    await self._servers.join(self._id, __version__)
                await self._read()
            except StoreDown as error:
                log.debug("servers.store_away", error=str(error))  # the owners stay as they were

    async def _read(self) -> None:
        if not self._is_alone:
            self._owners.take(await self._servers.rows())  # guard: take-over-the-pools-of-a-dead-server

    async def end(self) -> None:
        """Delete the row, because the server stops. The others take its pools with their next heartbeat."""
        try:
            await self._servers.leave(self._id)
        except StoreDown as error:
            log.debug("servers.store_away", error=str(error))
