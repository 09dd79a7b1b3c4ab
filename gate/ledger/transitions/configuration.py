"""Apply the configuration file to the pools and the accounts in SQL."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.engine import Connection

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import pool_rows
from gate.ledger.sql.pool_rows import PoolSettings
from gate.ledger.transitions import capacity
from gate.model.account import Accounts


def apply(batch: UnitOfWork, wanted: Mapping[str, PoolSettings], accounts: Accounts) -> list[str]:
    """Apply the configured pools and accounts.

    Args:
        batch: A unit of work.
        wanted: The settings of the pools, by name.
        accounts: The accounts.

    Returns:
        Names of the pools that changed or are new.
    """
    connection = batch.connection
    named = sorted({*wanted, *accounts.pools, *capacity.with_accounts(connection)})
    before = _in_redis(connection, named)
    changed = {name for name in sorted(wanted) if pool_rows.configure(connection, name, wanted[name])}
    capacity.configure(connection, accounts, named)
    for name in accounts.pools:
        capacity.settle(batch, name)
    after = _in_redis(connection, named)
    return sorted(changed | {name for name in after if before.get(name) != after[name]})


def _in_redis(connection: Connection, names: list[str]) -> dict[str, dict[str, int]]:
    return {name: pool.in_redis() for name, pool in pool_rows.named(connection, names).items()}
