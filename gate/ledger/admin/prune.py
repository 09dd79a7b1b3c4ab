"""Delete what jobs carried that ended long ago. That a job existed, how it ended and its ledger entries are kept for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.admin.archive import Archive
from gate.ledger.sql.engines import engine, first_line
from gate.ledger.sql.tables import deliveries, events, jobs, webhooks
from gate.ledger.transitions import unread_callbacks
from gate.model.errors import CannotStart
from gate.model.job import now_ms

AT_A_TIME = 500
"""Jobs in one transaction. A running server waits no longer than one such transaction."""
CARRIED = ("payload", "session", "error", "output")
"""Columns of a job that are emptied."""


@dataclass(slots=True)
class Pruned:
    """What was pruned.

    Attributes:
        jobs: Number of jobs that were emptied.
        events: Number of events that were deleted.
        charged, refunded: Sums of the ledger entries of the jobs that were archived, in credits. The entries stay.
    """

    jobs: int = 0
    events: int = 0
    charged: int = 0
    refunded: int = 0


def prune(
    url: str,
    older_than_ms: int,
    progress: Callable[[int, int], None] = lambda done, whole: None,
    archive: Path | None = None,
) -> Pruned:
    """Prune the jobs that ended long ago.

    A pruned job loses its payload, session, error, output and history, its finished deliveries and the content of its
    callbacks. Its row stays, because a job_id names one job for ever, and so do its ledger entries. An unread callback is
    deleted with the job that it was applied to, or by its own age. The row of the newest event stays,
    empty: without its id SQL would seem to have gone back.

    Args:
        url: Address of the ledger.
        older_than_ms: Time since the end of a job (ms) after which it is pruned.
        progress: Called after each transaction with the number of pruned jobs and of all jobs that are due.
        archive: Directory to which jobs are written before they are pruned; None to write none.

    Returns:
        What was pruned.

    Raises:
        CannotStart: SQL or the archive cannot be written. What was committed before stays pruned.
    """
    made, files = engine(url, writes=True), None
    before, after, pruned = now_ms() - older_than_ms, "", Pruned()
    due = (
        sa.select(jobs.c.job_id)
        .where(jobs.c.ended_at < before, jobs.c.pruned_at.is_(None), jobs.c.job_id > sa.bindparam("after"))
        .order_by(jobs.c.job_id)
        .limit(AT_A_TIME)
    )
    count = sa.select(sa.func.count()).where(jobs.c.ended_at < before, jobs.c.pruned_at.is_(None))
    try:
        files = Archive(archive) if archive is not None else None
        with made.begin() as connection:
            whole = connection.execute(count).scalar_one()
        while True:
            with made.begin() as connection:
                ids = list(connection.execute(due, {"after": after}).scalars())
                if not ids:
                    unread_callbacks.forget(connection, before_ms=before)
                    return pruned
                if files is not None:
                    files.add(connection, ids)
                    pruned.charged, pruned.refunded = files.charged, files.refunded
                emptied = {name: None for name in CARRIED} | {"pruned_at": now_ms()}
                connection.execute(jobs.update().where(jobs.c.job_id.in_(ids)).values(**emptied))
                pruned.events += _empty_the_newest(connection, ids)  # guard: newest-event-is-kept
                pruned.events += connection.execute(events.delete().where(events.c.job_id.in_(ids))).rowcount
                done = deliveries.c.job_id.in_(ids), deliveries.c.done_at.is_not(None)
                connection.execute(deliveries.delete().where(*done))
                # The row of a callback stays, or a repeat of the callback would be applied again.
                emptied_callback = {"body": None, "output": None, "error": None}
                connection.execute(webhooks.update().where(webhooks.c.job_id.in_(ids)).values(**emptied_callback))
                unread_callbacks.forget(connection, jobs=ids)
            pruned.jobs += len(ids)
            progress(pruned.jobs, whole)
            after = ids[-1]
    except SQLAlchemyError as error:
        raise CannotStart(f"SQL cannot be pruned: {first_line(error)}") from error
    except OSError as error:
        raise CannotStart(f"the archive cannot be written: {error}") from error
    finally:
        made.dispose()
        if files is not None:
            files.close()


def _empty_the_newest(connection: Connection, job_ids: Sequence[str]) -> int:
    """Empty the newest event of all, if it is of one of these jobs. Return how many were emptied."""
    newest = events.c.id == sa.select(sa.func.max(events.c.id)).scalar_subquery()
    empty = {"job_id": None, "pool": "", "kind": "pruned", "fence": None, "why": None}
    return connection.execute(events.update().where(newest, events.c.job_id.in_(job_ids)).values(**empty)).rowcount
