"""Who may come in: the keys of the ledger as last read, and the one of the environment."""

from __future__ import annotations

import asyncio
import hmac

import structlog

from gate.ledger import Key, LedgerQueries
from gate.ledger.admin import api_keys
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.keyring")

EVERY_S = 2.0
"""A new key counts, and a revoked one no longer, within five seconds (CONTRACT, Keys)."""
FROM_ENVIRONMENT = "GATE_ADMIN_KEY"


class KeyCache:
    """`admin_key` is GATE_ADMIN_KEY. Nobody waits for SQL to be let in: what was read last counts."""

    def __init__(self, reading: LedgerQueries, admin_key: str | None = None) -> None:
        self._reading = reading
        self._admin = api_keys.digest(admin_key) if admin_key else None
        self._keys: list[Key] = []
        self._shown: dict[str, tuple[str, str]] = {}
        """Who showed a living key since the keys were read last: he is known again without a hash."""

    @property
    def closed(self) -> bool:
        """Whether a key is wanted. Once there was one it is for ever: revoking the last must not open the door."""
        return bool(self._keys) or self._admin is not None

    def who(self, token: str) -> tuple[str, str] | None:
        """Name and role of who shows this key; None when it is no living key. Every hash is compared, in constant time."""
        if token in self._shown:
            return self._shown[token]
        shown, found = api_keys.digest(token), None
        if self._admin is not None and hmac.compare_digest(shown, self._admin):
            found = (FROM_ENVIRONMENT, "admin")
        for key in self._keys if api_keys.is_key(token) else ():
            if (
                hmac.compare_digest(shown, key.hash)
                # guard: revoked-key-is-refused
                and key.revoked_at is None
            ):
                found = (key.name, key.role)
        if found is not None:
            self._shown[token] = found
        return found

    def sealed(self, name: str) -> list[tuple[str, str]]:
        """Role and hash of each living key of this name: what a session that one of them opened was signed with."""
        found = [(key.role, key.hash) for key in self._keys if key.name == name and key.revoked_at is None]
        if self._admin is not None and name == FROM_ENVIRONMENT:
            found.append(("admin", self._admin))
        return found

    async def read(self) -> None:
        """Raises StoreDown."""
        self._keys = await self._reading.keys()
        self._shown.clear()

    async def keep(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.read()
            except StoreDown as error:
                log.debug("the keys are not read", error=str(error))
