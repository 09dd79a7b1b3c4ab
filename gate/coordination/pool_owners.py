"""The owner of each pool: the server that ticks and sweeps it. Several servers so cost together what one does.

Ownership decides only what work costs. Every call reaps and grants by itself, and a pool that two servers tick for a moment is as
correct as one that one server ticks. The owner is found by rendezvous hashing over the servers that live, so a server that comes or
goes moves no more pools than it has to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from gate.ledger import ServerRow


class PoolOwners:
    """Says which pools are this server's own.

    Attributes:
        on_change: Called when the set of servers that live has changed. The argument says whether one has died.
    """

    def __init__(self, server_id: str) -> None:
        self._me = server_id
        self._lives: dict[str, int] = {}
        self._owned: dict[str, bool] = {}
        self.on_change: list[Callable[[bool], None]] = []

    def owns(self, pool: str) -> bool:
        """Return whether a pool is this server's own."""
        if (found := self._owned.get(pool)) is None:
            found = self._owned[pool] = self._me == max({*self._lives, self._me}, key=lambda server: _weight(server, pool))
        return found

    def take(self, rows: Iterable[ServerRow]) -> None:
        """Take the rows of SQL as the servers that live.

        Args:
            rows: All servers.
        """
        known = {row.id: row for row in rows}
        lives = {row.id: row.started_at for row in known.values() if row.lives}
        if lives == self._lives:
            return
        # A row that is deleted is of a server that stopped in order. A server that died either stays away or has started again.
        died = any(
            server != self._me and server in known and lives.get(server) != started for server, started in self._lives.items()
        )
        self._lives, self._owned = lives, {}
        for changed in self.on_change:
            changed(died)


def _weight(server: str, pool: str) -> bytes:
    return hashlib.blake2b(f"{server}\n{pool}".encode(), digest_size=8).digest()
