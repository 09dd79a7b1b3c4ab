"""Up to which id the rows of a table are final, although transactions commit in another order than they draw ids.

SQLite has one writer, so ids are committed in the order in which they are drawn. On Postgres a transaction may commit a row
after another one has committed a row with a higher id. A reader that has passed the higher id would never read the lower one.

Therefore each transaction that adds rows to such a table first takes a shared advisory lock, and holds it until its end. The
key of the lock has the id that was drawn last at that moment: all ids of this transaction are higher. A reader looks at the
locks. It then knows an id below which no open transaction can add a row. Shared locks never wait for each other. Transactions
of other applications do not hold these locks, so they do not delay a reader, however long they are open.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.tables import events, ledger, unread_callbacks

PREFIXES = {ledger: 0x6701, events: 0x6702, unread_callbacks: 0x6703}
"""The tables that are read by id, with the upper 16 bits of the keys of their locks. The lower 48 bits are an id."""
_LAST = {table: f"coalesce(pg_sequence_last_value('gate.{table.name}_id_seq'), 0)" for table in PREFIXES}
ANNOUNCED = ", ".join(f"pg_advisory_xact_lock_shared({prefix << 48} | {_LAST[table]})" for table, prefix in PREFIXES.items())
"""Columns of a `select` that takes the locks on Postgres. Take them before the transaction draws an id of these tables."""
_LOCKS = (
    "from pg_locks as held where held.locktype = 'advisory' and held.objsubid = 1 and held.classid::bigint >> 16 = %s"
    " and held.database = (select oid from pg_database where datname = current_database())"
)
_ID = "((held.classid::bigint & 65535) << 32) | held.objid::bigint"


def announce(connection: Connection) -> None:
    """Take the locks of this module, in a transaction that did not take them when it began.

    Args:
        connection: A connection in a transaction, on Postgres.
    """
    connection.exec_driver_sql(f"select {ANNOUNCED}")


def final_id(connection: Connection, table: sa.Table) -> int | None:
    """Return an id up to which every row is committed, or never will be.

    A query of the rows must begin after this call.

    Args:
        connection: A connection without a transaction.
        table: One of PREFIXES.

    Returns:
        None on SQLite, where that holds for every row that can be read.
    """
    if connection.dialect.name != "postgresql":
        return None
    # First the sequence, then the locks: a transaction that takes its lock in between draws higher ids than `last`.
    last = connection.exec_driver_sql(f"select {_LAST[table]}").scalar_one()
    lowest = connection.exec_driver_sql(f"select min({_ID}) {_LOCKS}", (PREFIXES[table],)).scalar_one()
    return int(last) if lowest is None else min(int(last), int(lowest))


def open_longest(connection: Connection) -> tuple[int, float] | None:
    """Return the oldest transaction of gate that is open and writes.

    Args:
        connection: Any connection.

    Returns:
        The process id of its session on Postgres, and its age (s). None when there is none, when its age cannot be seen, and
        on SQLite.
    """
    if connection.dialect.name != "postgresql":
        return None
    age = "extract(epoch from clock_timestamp() - xact_start)"
    found = connection.exec_driver_sql(
        f"select pid, {age} from pg_stat_activity where xact_start is not null and pid in (select held.pid {_LOCKS})"
        " order by xact_start limit 1",
        (PREFIXES[ledger],),
    ).first()
    return None if found is None else (int(found[0]), float(found[1]))
