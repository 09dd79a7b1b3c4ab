"""Find where a time begins in a table whose rows are in the order of their ids, and nearly in that of their times.

So a report about the last hour reads the rows of that hour, however long the table is, and no index on its times is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def first_id(connection: Connection, table: sa.Table, since_ms: int) -> int:
    """Return the id of the first row of a time, by binary search.

    Args:
        connection: An open connection.
        table: A table with `id` and `at`, to which rows are only added.
        since_ms: Begin of the time (ms since 1970).
    """
    low, high = 1, (connection.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0) + 1
    while low < high:
        middle = (low + high) // 2
        after = sa.select(table.c.id, table.c.at).where(table.c.id >= middle).order_by(table.c.id).limit(1)
        row: Sequence[int] | None = connection.execute(after).first()
        if row is None or row[1] >= since_ms:
            high = middle
        else:
            low = row[0] + 1
    return low
