"""The worker that looks at both stores every few seconds, so that a full one is known before a caller is refused."""

from __future__ import annotations

import asyncio

from gate.coordination.store_health import StoreHealth

EVERY_S = 1.0
"""Pause (s) between two looks. A store that takes no writes is to be known within five seconds."""


class StoreWatch:
    """Looks at the stores."""

    def __init__(self, health: StoreHealth) -> None:
        self._health = health

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self._health.look()
