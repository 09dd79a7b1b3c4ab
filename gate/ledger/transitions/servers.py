"""The servers that run on this ledger, each with the time when it was last seen.

Each server writes its row again and again, and reads the others. By these rows the servers share the ticks of the pools, so a row
decides what work costs and never what is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import servers
from gate.model.job import now_ms

KEPT_MS = 24 * 3_600_000
"""Age (ms) above which the row of a server that is gone is deleted. A container that is replaced leaves one for each life."""
DEAD_AFTER_S = 3.5
"""Age (s) of a row from which its server counts as dead. It is written each second, so the pools are taken over within 5 s."""
DEAD_AFTER_ALONE_S = 100.0
"""The same (s) on SQLite, where a row is written each 30 s: only one server can use the file."""


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server of this ledger.

    Attributes:
        id: Its name, which a restart keeps.
        version: Its version of gate.
        started_at: When it started, by the clock of SQL (ms since 1970).
        seen_at: When it wrote its row last, likewise.
        age_s: How long ago that was (s).
        skew_ms: By how much (ms) its own clock was ahead of SQL's then.
        lives: Whether it was seen lately.
    """

    id: str
    version: str
    started_at: int
    seen_at: int
    age_s: float
    skew_ms: int
    lives: bool


class Servers:
    """Writes and reads the rows of servers. Each method raises StoreDown when SQL does not answer."""

    def __init__(self, database: Database, is_alone: bool) -> None:
        """Use a database.

        Args:
            database: The database.
            is_alone: No other server can use it, as its lock proves. Rows of others are then of former lives.
        """
        self._database, self._is_alone = database, is_alone

    async def join(self, server_id: str, version: str) -> None:
        """Write the row of a server that starts, and delete the rows of those that have been gone for a day."""

        def work(connection: Connection) -> None:
            now = clock_ms(connection)
            former = sa.true() if self._is_alone else servers.c.seen_at < now - KEPT_MS
            connection.execute(servers.delete().where(former))
            facts = {"version": version, "started_at": now, "seen_at": now, "clock_ms": now_ms()}
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            row = insert(servers).values(id=server_id, **facts)
            connection.execute(row.on_conflict_do_update(index_elements=["id"], set_=facts))

        await self._database.write("", "", lambda batch: work(batch.connection))

    async def beat(self, server_id: str) -> bool:
        """Say that a server lives.

        Returns:
            False when its row is gone. It has to join again.
        """

        def work(connection: Connection) -> bool:
            seen = {"seen_at": clock_ms(connection), "clock_ms": now_ms()}
            return connection.execute(servers.update().where(servers.c.id == server_id).values(**seen)).rowcount == 1

        return await self._database.write("", "", lambda batch: work(batch.connection))

    async def leave(self, server_id: str) -> None:
        """Delete the row of a server that stops in order."""
        mine = servers.delete().where(servers.c.id == server_id)
        await self._database.write("", "", lambda batch: batch.connection.execute(mine).rowcount)

    async def rows(self) -> list[ServerRow]:
        """Return all servers, in the order of their starts."""
        dead_after_s = DEAD_AFTER_ALONE_S if self._is_alone else DEAD_AFTER_S
        return await self._database.read(lambda connection: every(connection, dead_after_s))


def every(connection: Connection, dead_after_s: float) -> list[ServerRow]:
    """Return all servers, in the order of their starts. One that was not seen for `dead_after_s` (s) counts as dead."""
    now = clock_ms(connection)
    found = []
    for row in connection.execute(sa.select(servers).order_by(servers.c.started_at, servers.c.id)):
        age_s = max(now - row.seen_at, 0) / 1000
        facts = (row.id, row.version, row.started_at, row.seen_at)
        found.append(ServerRow(*facts, age_s, row.clock_ms - row.seen_at, age_s <= dead_after_s))
    return found
