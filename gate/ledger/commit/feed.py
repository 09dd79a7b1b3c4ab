"""Read a table by id, page by page, so that a follower reads every row.

A page ends before the first id that an open transaction may still commit. Such transactions take milliseconds, so a page waits
for those that were open when it was asked for. Then a caller finds the row of its own change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.sql.drawn_ids import final_id

log = structlog.get_logger("gate.ledger")
T = TypeVar("T")

OPEN_S = 1.0
"""Longest wait (s) of a page for open transactions. They take milliseconds, unless Postgres hangs."""
LOOK_AGAIN_S = 0.01
"""Pause (s) between two looks at open transactions."""
LOG_EVERY_S = 10.0
"""Shortest time (s) between two log lines about a feed that is held back. A follower may ask many times a second."""


class Feed:
    """One table of `drawn_ids.PREFIXES`, read by id."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        """Open the feed of a table.

        Args:
            database: The ledger's database.
            table: One of `drawn_ids.PREFIXES`.
        """
        self._database, self._table = database, table
        self._quiet_until = 0.0

    async def page(
        self, query: sa.Select[*tuple[Any, ...]], after: int, most: int, one_job: bool = False
    ) -> tuple[list[Any], int | None]:
        """Return the rows of a page, the lowest id first.

        Args:
            query: Selects the rows, with the column `id`.
            after: ID after which the page begins; 0 for the first page.
            most: Number of rows at most.
            one_job: All rows are of one job. Its changes follow one another, so its rows are committed in order of their ids.

        Returns:
            The rows, and the `after` of the next page. It is None on the last page, and where the feed is held back.

        Raises:
            StoreDown: SQL does not answer.
        """
        query = query.where(self._table.c.id > after).order_by(self._table.c.id).limit(most + 1)

        def look(connection: Connection) -> tuple[int, list[Any]]:
            rows = list(connection.execute(query))
            return rows[-1].id if rows else 0, rows

        final, rows = (None, (await self._database.read(look))[1]) if one_job else await self._settled(look)
        rows = [
            row
            for row in rows
            if final is None or row.id <= final  # guard: page-ends-before-an-open-transaction
        ]
        return rows[:most], rows[most - 1].id if len(rows) > most else None

    async def newest(self) -> int:
        """Return the newest id up to which every row can be read; 0 when there is none.

        Raises:
            StoreDown: SQL does not answer.
        """
        query = sa.select(sa.func.coalesce(sa.func.max(self._table.c.id), 0))

        def look(connection: Connection) -> tuple[int, int]:
            newest: int = connection.execute(query).scalar_one()
            return newest, newest

        final, newest = await self._settled(look)
        return newest if final is None else min(newest, final)

    async def _settled(self, look: Callable[[Connection], tuple[int, T]]) -> tuple[int | None, T]:
        """Look until the rows of the first look are final, for OPEN_S at most.

        Args:
            look: Returns the highest id that it found, and its result.

        Returns:
            The id up to which the last result is final, None for all of it, and that result.
        """
        wanted: int | None = None
        end = time.monotonic() + OPEN_S
        while True:
            final, highest, found = await self._database.read(
                lambda connection: (final_id(connection, self._table), *look(connection))
            )
            wanted = highest if wanted is None else wanted
            if final is None or final >= wanted:
                return final, found
            if time.monotonic() >= end:
                self._held_back(final)
                return final, found
            await asyncio.sleep(LOOK_AGAIN_S)

    def _held_back(self, final: int) -> None:
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + LOG_EVERY_S
            log.warning("feed.held_back", feed=self._table.name, after=final)
