"""Find what is wrong between gate and the providers that it asks: stops that were given up, jobs without a task, callbacks that never come."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.reports.first_id import first_id
from gate.ledger.sql import pool_rows
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.job_rows import is_holding
from gate.ledger.sql.tables import jobs, tasks, webhooks
from gate.ledger.transitions import capacity
from gate.ledger.transitions.capacity import AccountState
from gate.model.job import now_ms

ASKED = '{"asked": true%'
"""Beginning of what is kept in the place of a callback's body when a question has brought the end."""


@dataclass(frozen=True, slots=True)
class ProviderTroubles:
    """What is wrong.

    Attributes:
        accounts: The accounts, by pool.
        given_up: Number of stops that were given up lately, and one of their jobs, by provider.
        without_task: Number of jobs that have held a slot for half of their lease without a task, and one of them, by pool.
        ends: Ends that came lately by a callback, and by a question, by provider. A hint counts as an end by a callback.
    """

    accounts: dict[str, list[AccountState]] = field(default_factory=dict)
    given_up: dict[str, tuple[int, str]] = field(default_factory=dict)
    without_task: dict[str, tuple[int, str]] = field(default_factory=dict)
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)


def provider_troubles(connection: Connection, lately_ms: int) -> ProviderTroubles:
    """Read what is wrong.

    Args:
        connection: A connection.
        lately_ms: Age (ms) up to which stops and ends count.
    """
    found = ProviderTroubles(capacity.states(connection))
    since = clock_ms(connection) - lately_ms
    stops = sa.select(tasks.c.provider, sa.func.count(), sa.func.max(tasks.c.job_id))
    for provider, *rest in connection.execute(
        stops.where(tasks.c.stop == "given_up", tasks.c.stop_at > since).group_by(tasks.c.provider)
    ):
        found.given_up[provider] = (rest[0], rest[1])
    ahead_ms = {pool.name: pool.clock_ahead_ms for pool in pool_rows.every(connection) if pool.accounts}
    for pool, ahead in ahead_ms.items():
        old = jobs.c.granted_at + jobs.c.lease_ms / 2 < now_ms() - ahead
        query = sa.select(sa.func.count(), sa.func.max(jobs.c.job_id)).where(
            jobs.c.pool == pool, is_holding, jobs.c.task_id.is_(None), old
        )
        count, job_id = connection.execute(query).one()
        if count:
            found.without_task[pool] = (count, job_id)
    asked = sa.func.sum(sa.case((webhooks.c.body.like(ASKED), 1), else_=0))
    since = now_ms() - lately_ms
    ends = sa.select(webhooks.c.provider, sa.func.count(), asked).where(
        webhooks.c.id >= first_id(connection, webhooks, since),
        webhooks.c.at > since,
        webhooks.c.verdict.in_(("ended", "late", "hint")),
    )
    for provider, count, by_question in connection.execute(ends.group_by(webhooks.c.provider)):
        found.ends[provider] = (count - int(by_question), int(by_question))
    return found
