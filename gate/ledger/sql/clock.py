"""SQL's own clock."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from gate.model.job import now_ms


def clock_ms(connection: Connection) -> int:
    """Read SQL's own clock (ms since 1970).

    With their own clocks, servers whose clocks differ would hold the same row for different times.
    """
    if connection.dialect.name == "sqlite":
        return now_ms()
    return int(connection.exec_driver_sql("select floor(extract(epoch from clock_timestamp()) * 1000)").scalar_one())
