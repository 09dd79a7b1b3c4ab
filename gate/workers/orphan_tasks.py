"""A warning about tasks that no server can ask about, because their account was removed from the configuration."""

from __future__ import annotations

import structlog

from gate.ledger import LedgerQueries
from gate.model.account import Accounts

log = structlog.get_logger("gate.asking")


async def warn_of_orphans(rows: LedgerQueries, accounts: Accounts) -> None:
    """Log the accounts that are not configured and have tasks which gate should ask about, or stop.

    The accounts change only with a start of the server, so one look at the start is enough.

    Args:
        rows: Reads SQL.
        accounts: The accounts that are configured, none at all included.

    Raises:
        StoreDown: SQL does not answer.
    """
    for one in await rows.orphan_tasks(accounts):
        about = {"provider": one.provider, "account": one.account, "pool": one.pool}
        log.warning("asking.no_account", **about, tasks=one.tasks, job_id=one.job_id)
