"""Convert rows of `jobs` to Job and back, and read jobs together with their refunds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic_core import from_json
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from gate.ledger.sql.statements import ScalarQuery
from gate.ledger.sql.tables import jobs, ledger, owed
from gate.model.job import HOLDING, LIVE, REFUNDED, Job, Refund

FIELDS = tuple(name for name in Job._fields if name in jobs.c)
"""Fields of Job that are columns. They are its first fields, in its order."""
_JSON_FIELDS = ("payload", "output", "late_output")
_COLUMNS = frozenset(FIELDS)
_JSON = [FIELDS.index(name) for name in _JSON_FIELDS]
_FLAGS = [FIELDS.index(name) for name in ("starts", "tells", "settles")]
_columns = [jobs.c[name] for name in FIELDS]

jobs_with_refund = (
    sa.select(
        *_columns, ledger.c.amount.label("refund_amount"), ledger.c.at.label("refund_at"), owed.c.amount.label("owed_amount")
    )
    .outerjoin(ledger, (ledger.c.job_id == jobs.c.job_id) & (ledger.c.kind == "refund"))
    .outerjoin(owed, owed.c.job_id == jobs.c.job_id)
)

_refunded = jobs_with_refund.where(jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))

# `ended_at is null` repeats what the statuses say, because without it SQL does not use the partial index.
is_live = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(LIVE))
is_holding = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(HOLDING))
is_unanswered = (
    jobs.c.task_id.is_(None) & jobs.c.provider.is_not(None) & jobs.c.ended_at.is_not(None) & (jobs.c.status != "expired")
)
"""A job that ended while its start call was unanswered. The first two conditions are those of the partial index."""

_names = ", ".join(f'"{name}"' for name in FIELDS)
_held = "(select count(*) from {} where pool = {} and ended_at is null and status in ('granted', 'running'))"
LOOK = ScalarQuery(
    f"select json_object('held', {_held.format('jobs', '?')}, 'jobs', json_group_array(json_array({_names})))"
    " from jobs where job_id in (select value from json_each(?))",
    f"select json_build_object('held', {_held.format('gate.jobs', '%s')}, 'jobs',"
    f" coalesce(json_agg(json_build_array({_names})), '[]'))::text from gate.jobs"
    " where job_id = any(%s)",
)
"""The query of `look`. Its parameters are the pool, and the list of job_ids."""


def job_of(row: sa.Row[*tuple[Any, ...]]) -> Job:
    """Convert a row of `jobs_with_refund` to a Job."""
    refund = Refund(row.refund_amount, row.refund_at) if row.refund_amount is not None else None
    if row.owed_amount is not None:
        refund = Refund(row.owed_amount, None, owed=True)
    return _plain(row[: len(FIELDS)])._replace(refund=refund)


def _plain(row: Sequence[Any]) -> Job:
    values = list(row)
    for place in _JSON:
        if values[place] is not None:
            values[place] = json.loads(values[place])
    for place in _FLAGS:
        values[place] = bool(values[place])  # SQLite stores 0 or 1
    return Job(*values)


def row_of(job: Job) -> list[Any]:
    """Convert a job to the values of its row, in the order of FIELDS."""
    values = list(job[: len(FIELDS)])
    for place in _JSON:
        if values[place] is not None:
            values[place] = json.dumps(values[place])
    return values


def as_columns(values: dict[str, Any]) -> dict[str, Any]:
    """Convert changed fields of a job to changed columns.

    Args:
        values: New values by field. Fields that are not columns are left out.
    """
    return {
        name: json.dumps(value) if name in _JSON_FIELDS and value is not None else value
        for name, value in values.items()
        if name in _COLUMNS
    }


def look(connection: Connection, pool: str, job_ids: Sequence[str]) -> tuple[dict[str, Job], int]:
    """Read jobs, and count the held slots of a pool.

    Args:
        connection: An open connection.
        pool: Pool whose slots are counted.
        job_ids: Jobs to read, of any pool.

    Returns:
        The jobs that exist, by job_id, and the number of granted and running jobs of the pool.
    """
    return seen(connection, LOOK.ask(connection, pool, list(job_ids)))


def seen(connection: Connection, looking: DBAPICursor) -> tuple[dict[str, Job], int]:
    """Read the answer of LOOK from its cursor.

    The refund is looked up only for jobs that may have one. Few do, and the lookup is expensive.
    """
    row = looking.fetchone()
    assert row is not None
    answer = from_json(row[0])
    found = {job.job_id: job for job in map(_plain, answer["jobs"])}
    if refunded := [job.job_id for job in found.values() if job.status in REFUNDED and job.credits]:
        found |= {row.job_id: job_of(row) for row in connection.execute(_refunded, {"job_ids": refunded})}
    return found, answer["held"]


def find(connection: Connection, job_id: str) -> Job | None:
    """Return the job of this id, in any pool; None when there is none."""
    return look(connection, "", [job_id])[0].get(job_id)
