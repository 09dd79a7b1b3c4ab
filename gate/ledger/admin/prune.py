"""Forgets what long ago ended jobs carried, and keeps what must never be forgotten: that the job was, how it ended, its money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.sql.engines import engine, first_line
from gate.ledger.sql.tables import deliveries, events, jobs, webhooks
from gate.ledger.transitions import unread_callbacks
from gate.model.errors import CannotStart
from gate.model.job import now_ms

AT_A_TIME = 500
"""Jobs in one transaction: a server that writes meanwhile waits for no more than that."""
CARRIED = ("payload", "session", "error", "output")


@dataclass(slots=True)
class Pruned:
    jobs: int = 0
    events: int = 0


def prune(url: str, older_than_ms: int, progress: Callable[[int, int], None] = lambda done, whole: None) -> Pruned:
    """Of each job that ended longer ago than that: its payload, session, error, output and history, what tools were told of it and
    what its provider sent. Its row stays (a job_id is one job for ever), and so does the ledger. Callbacks that could not be read go with
    the job that they were applied to, or by their own age. `progress` is told the jobs done, of how many. Raises CannotStart in one line.
    """
    made = engine(url, writes=True)
    before, after, pruned = now_ms() - older_than_ms, "", Pruned()
    due = (
        sa.select(jobs.c.job_id)
        .where(jobs.c.ended_at < before, jobs.c.pruned_at.is_(None), jobs.c.job_id > sa.bindparam("after"))
        .order_by(jobs.c.job_id)
        .limit(AT_A_TIME)
    )
    count = sa.select(sa.func.count()).where(jobs.c.ended_at < before, jobs.c.pruned_at.is_(None))
    try:
        with made.begin() as connection:
            whole = connection.execute(count).scalar_one()
        while True:
            with made.begin() as connection:
                ids = list(connection.execute(due, {"after": after}).scalars())
                if not ids:
                    unread_callbacks.forget(connection, before_ms=before)
                    return pruned
                emptied = {name: None for name in CARRIED} | {"pruned_at": now_ms()}
                connection.execute(jobs.update().where(jobs.c.job_id.in_(ids)).values(**emptied))
                pruned.events += connection.execute(events.delete().where(events.c.job_id.in_(ids))).rowcount
                done = deliveries.c.job_id.in_(ids), deliveries.c.done_at.is_not(None)
                connection.execute(deliveries.delete().where(*done))
                # That a callback came is remembered for good, or the same one would count again.
                said = {"body": None, "output": None, "error": None}
                connection.execute(webhooks.update().where(webhooks.c.job_id.in_(ids)).values(**said))
                unread_callbacks.forget(connection, jobs=ids)
            pruned.jobs += len(ids)
            progress(pruned.jobs, whole)
            after = ids[-1]
    except SQLAlchemyError as error:
        raise CannotStart(f"SQL cannot be pruned: {first_line(error)}") from error
    finally:
        made.dispose()
