"""The API keys that open gate: a cached copy of the keys in SQL, and GATE_ADMIN_KEY.

No request waits for SQL to authenticate. The cache is read again every two seconds, and a failed read leaves it as it was.
"""

from __future__ import annotations

import asyncio
import hmac

import structlog

from gate.ledger import Key, LedgerQueries
from gate.ledger.admin import api_keys
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.keyring")

EVERY_S = 2.0
"""Time between two reads of the keys (s). CONTRACT (Keys) allows five seconds until a new or revoked key takes effect."""
FROM_ENVIRONMENT = "GATE_ADMIN_KEY"
"""Name of the key in the environment, as logs and history show it."""

FROM_TERMINAL = "terminal"
"""Name of the key of commands on this machine, as logs show it."""


class KeyCache:
    """The keys as last read from SQL, and the key of the environment."""

    def __init__(self, reading: LedgerQueries, admin_key: str | None = None) -> None:
        """Start with an empty cache. Call `read` before the first request.

        Args:
            reading: Queries of the ledger, which has the keys.
            admin_key: Value of GATE_ADMIN_KEY; None when it is not set.
        """
        self._reading = reading
        self._admin = api_keys.digest(admin_key) if admin_key else None
        self._terminal: str | None = None
        self._keys: list[Key] = []
        self._shown: dict[str, tuple[str, str]] = {}
        """Name and role by valid token, for tokens shown since the last read. A known token needs no hash."""

    def accept_terminal(self, key: str) -> None:
        """Accept the key of commands on this machine, with the role tool.

        A process that can read it in the data directory can open both stores as well, so it opens nothing more to that process.

        Args:
            key: The key. It does not count as one that closes gate to callers without a key.
        """
        self._terminal = api_keys.digest(key)

    @property
    def closed(self) -> bool:
        """Whether a caller has to show a key. A revoked key counts too: else revoking the last key would open gate to all."""
        return bool(self._keys) or self._admin is not None

    def who(self, token: str) -> tuple[str, str] | None:
        """Find the key that a token is. Each comparison takes constant time, so its duration tells nothing about a hash.

        Args:
            token: The token as the caller showed it.

        Returns:
            Name and role of the key; None when the token is no key or a revoked one.
        """
        if token in self._shown:
            return self._shown[token]
        shown, found = api_keys.digest(token), None
        if self._admin is not None and hmac.compare_digest(shown, self._admin):
            found = (FROM_ENVIRONMENT, "admin")
        if self._terminal is not None and hmac.compare_digest(shown, self._terminal):
            found = (FROM_TERMINAL, "tool")
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

    @property
    def names(self) -> list[str]:
        """Names under which callers have been let in: of every key, revoked ones too, and the empty one of a caller without."""
        return [FROM_ENVIRONMENT, *(key.name for key in self._keys), ""]

    def sealed(self, name: str) -> list[tuple[str, str]]:
        """List the keys that may have signed a session.

        Args:
            name: Name of the key that opened the session.

        Returns:
            Role and hash of each key of this name that is not revoked.
        """
        found = [(key.role, key.hash) for key in self._keys if key.name == name and key.revoked_at is None]
        if self._admin is not None and name == FROM_ENVIRONMENT:
            found.append(("admin", self._admin))
        return found

    async def read(self) -> None:
        """Read all keys from SQL, and forget the tokens that were valid before.

        Raises:
            StoreDown: SQL does not answer. The keys stay as they were.
        """
        self._keys = await self._reading.keys()
        self._shown.clear()

    async def keep(self) -> None:
        """Read the keys at a fixed interval until the task is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.read()
            except StoreDown as error:
                log.debug("key_cache.read_failed", error=str(error))
