"""Report what gate has learned of a task from its provider, and which tasks no configured account can be asked about."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import jobs, tasks
from gate.model.account import Accounts


class Asked(NamedTuple):
    """What is known of a task that gate asks about.

    Attributes:
        account: Name of the account.
        state: `unasked`, `silent`, or the last answer.
        heard_at: When the provider answered last (ms since 1970); None if it never did.
        questions: Questions so far.
        stop: `owed`, `confirmed`, `given_up`; None for a task that was not to be stopped.
        is_answered: No question is due or under way.
        silent_since: First question without an answer since the last answer (ms since 1970); None when the last one was answered.
    """

    account: str
    state: str
    heard_at: int | None
    questions: int
    stop: str | None
    is_answered: bool
    silent_since: int | None


def asked(connection: Connection, provider: str, task_id: str) -> Asked | None:
    """Return what is known of a task; None when gate does not ask about it."""
    row = connection.execute(sa.select(tasks).where(tasks.c.provider == provider, tasks.c.task_id == task_id)).first()
    return None if row is None else known_of(row, clock_ms(connection))


def known_of(row: sa.Row[Any], now: int) -> Asked | None:
    """Return what a row of `tasks` says; None when gate does not ask about the task.

    Args:
        row: The row.
        now: The time by SQL's clock (ms since 1970).
    """
    if row.account is None:
        return None
    state = "silent" if row.silent_since is not None else row.state or "unasked"
    is_answered = row.ask_at is None or (row.taken_by is None and row.ask_at > now)
    return Asked(row.account, state, row.heard_at, row.questions, row.stop, is_answered, row.silent_since)


class OrphanTasks(NamedTuple):
    """Tasks of an account that the configuration does not have, which are asked about nowhere.

    Attributes:
        provider: Name of the provider.
        account: Name of the account.
        pool: Pool of their jobs.
        tasks: Number of them.
        job_id: One of their jobs.
    """

    provider: str
    account: str
    pool: str
    tasks: int
    job_id: str


def orphan_tasks(connection: Connection, accounts: Accounts) -> list[OrphanTasks]:
    """Find tasks that gate should ask about, or stop, and that no configured account can be asked about.

    A task whose account has another name by now is none of them: another account of the provider in its pool takes it over.

    Args:
        connection: A connection.
        accounts: The accounts that are configured.

    Returns:
        One entry for each account and pool, in their order.
    """
    place = tasks.c.provider, tasks.c.account, jobs.c.pool
    query = sa.select(*place, sa.func.count(), sa.func.max(tasks.c.job_id)).join(jobs, jobs.c.job_id == tasks.c.job_id)
    query = query.where(tasks.c.ask_at.is_not(None)).group_by(*place).order_by(*place)
    found = [OrphanTasks(*row) for row in connection.execute(query)]
    return [
        one
        for one in found
        if accounts.get(one.provider, one.account) is None and accounts.of(one.provider, one.pool) is None
    ]
